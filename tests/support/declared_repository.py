"""A feature repository of its own with one declared view, and two tenants with data in the run's database."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
from oracles.declared import Oracle
from oracles.features import HOUR, Asset

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.features.store import open_store
from ai_hub.settings import Settings
from feast_plugins.windows import declarations
from feast_plugins.windows.database import allow_losses
from support.declared_views import same
from support.feature_tables import write
from support.two_projects import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPOSITORY = """
from datetime import timedelta

from feast import Entity, FeatureService, ValueType
from feast.aggregation import Aggregation
from feast_plugins.windows import DegreeHours, Holiday, Lag, SameHour, declared_view

tenant = Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING)
asset = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)
{view} = declared_view(
    name="{view}",
    entities=[tenant, asset],
    features={{
        {features}
    }},
)
service = FeatureService(name="{view}_service", features=[{view}])
"""
FEATURES = """
        "lag_48h": Lag("value", timedelta(hours=48)),
        "mean_same_hour_7d": SameHour("value", "mean", days=7),
        "max_3d": Aggregation("value", "max", timedelta(days=3), timedelta(hours=1)),
        "heating_24h": DegreeHours(15, timedelta(hours=24)),
        "holiday": Holiday("DE"),
"""


@dataclass
class Repository:
    """A repository of its own with one declared view, and two tenants with data in the run's database."""

    project: Project
    settings: Settings
    view: str
    tenant: str
    asset: Asset
    #: of the other tenant
    foreign: Asset

    def declare(self, features: str = FEATURES) -> None:
        self.project.declarations.write_text(REPOSITORY.format(view=self.view, features=features))

    @property
    def references(self) -> list[str]:
        return [f"{self.view}:{name}" for name in self.expressions]

    @property
    def declaration(self) -> declarations.Declaration:
        found = declarations.declaration_of(self.project.store().get_feature_view(self.view))
        assert found is not None
        return found

    @property
    def expressions(self) -> dict[str, Any]:
        return self.declaration.as_json()

    def expected(self, hour: datetime, asset: Asset | None = None) -> dict[str, Any]:
        declaration = self.declaration
        oracle = Oracle(asset or self.asset, datetime.now(UTC), {}, declaration.step)
        return oracle.row(hour, declaration.as_json())

    def problems(self, row: Any, hour: datetime, asset: Asset | None = None) -> list[str]:
        """How the features of a row differ from the oracle."""
        return [
            f"{name}: {row[name]} instead of {value}"
            for name, value in self.expected(hour, asset).items()
            if not same(None if pd.isna(row[name]) else row[name], value, 1e6)
        ]

    def history(self, hours: list[datetime], **options: Any) -> pd.DataFrame:
        store = open_store(self.settings, **options)
        entities = pd.DataFrame(
            [
                {"tenant_id": tenant, "asset_id": "meter", "event_timestamp": hour}
                for tenant in (self.tenant, f"{self.tenant}-x")
                for hour in hours
            ]
        )
        return store.get_historical_features(entities, self.references).to_df()


@contextmanager
def declared_repository(database: str, now: datetime, folder: Path) -> Iterator[Repository]:
    """A repository whose view is not applied yet; its meters have readings of ten days up to `now`."""
    view, tenant = f"demand_{secrets.token_hex(4)}", f"t-{secrets.token_hex(5)}"
    # readers beside a writer wait for each other
    registry = f"sqlite:///{folder}/registry.db?timeout=60"
    settings = Settings(feast_registry_uri=registry, export_storage_path=str(folder / "exports"))
    redis_url = settings.require("redis_url")
    project = Project(folder / "repo", "ai_hub", database, redis_url, registry).write()
    made = Repository(project, settings, view, tenant, Asset("Europe/Berlin"), Asset("UTC"))
    made.declare()
    start = now - timedelta(days=10)
    for step in range(240):
        made.asset.readings[start + step * HOUR] = float(step % 24 + step / 100)
        made.foreign.readings[start + step * HOUR] = 1e6 + step
    with connect(database, autocommit=True) as connection:
        for owner, asset in ((tenant, made.asset), (f"{tenant}-x", made.foreign)):
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id, timezone) VALUES (%s, 'meter', %s)",
                [owner, asset.zone],
            )
            write(connection, owner, "meter", asset.readings)
    refresh()
    yield made
    made.project.declarations.write_text("")
    with allow_losses():
        made.project.done("apply", "--yes")


def leave_others_out(repository: Repository) -> None:
    """The run's other tests leave assets whose rows nobody needs here."""
    with connect(autocommit=True) as connection:
        connection.execute(
            "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, '{(,)}' FROM asset_spans"
            " WHERE tenant_id <> ALL (%s)",
            [repository.view, [repository.tenant, f"{repository.tenant}-x"]],
        )

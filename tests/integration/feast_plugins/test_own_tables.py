"""A view in Feast's own words on a table of the user's own, in our project and in another one."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml
from support.export_lab import ExportLab
from support.feature_reading import Clock, ask, run
from support.feature_tables import register
from support.two_projects import Project

from ai_hub.db import connect
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.errors import NotFoundError
from ai_hub.settings import Settings
from feast_plugins.errors import HistoryNotKnownError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

QUARTER = timedelta(minutes=15)
REPOSITORY = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

tenant = Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING)
asset = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)
views = [
    FeatureView(
        name=f"{{name}}_{unique}",
        entities=[tenant, asset],
        ttl=timedelta(minutes=15),
        schema=[Field(name=name, dtype=Float64)],
        tags={{"step": "15min"}},
        source=PostgreSQLSource(
            name=f"{{name}}_{unique}",
            table="own_{unique}",
            timestamp_field="at",
            created_timestamp_column=created,
        ),
    )
    for name, created in (("tariff", "made_at"), ("level", ""))
]
tariff, level = views
of_tariff, of_level = (FeatureService(name=view.name, features=[view]) for view in views)
"""


class Table:
    """Rows every quarter of an hour of two tenants, whose assets have one name; each is corrected later."""

    def __init__(self, project: Project, hour: datetime) -> None:
        self.project, self.unique, self.hour = project, secrets.token_hex(4), hour
        self.tenants = {f"own-{self.unique}": 0.0, f"own-{self.unique}-x": 1000.0}
        #: between what was written first and the corrections
        self.known_at = hour - timedelta(hours=10)
        self.first, self.later = self.known_at - QUARTER, self.known_at + QUARTER

    @property
    def tenant(self) -> str:
        return next(iter(self.tenants))

    def create(self) -> None:
        rows = [
            (tenant, "meter", self.time(quarter), made_at, self.value(tenant, quarter, made_at))
            for tenant in self.tenants
            for quarter in range(8)
            for made_at in (self.first, self.later)
        ]
        with connect() as connection:
            for tenant in self.tenants:
                register(connection, tenant, "meter", "UTC")
            connection.execute(
                f"CREATE TABLE own_{self.unique} (tenant_id text, asset_id text, at timestamptz,"
                " made_at timestamptz, tariff float8, level float8)".encode()
            )
            connection.cursor().executemany(
                f"INSERT INTO own_{self.unique} VALUES (%s, %s, %s, %s, %s, 1)".encode(),  # noqa: S608
                rows,
            )

    def time(self, quarter: int) -> datetime:
        return self.hour - 4 * QUARTER + quarter * QUARTER

    def value(self, tenant: str, quarter: int, made_at: datetime) -> float:
        return self.tenants[tenant] + quarter + (100.0 if made_at == self.later else 0.0)

    def history(self, minutes: list[int], name: str = "tariff", **options: Any) -> list[float | None]:
        """A feature of both tenants so many minutes after the hour, the first tenant's first."""
        if options:
            settings = self.project.folder / "feature_store.yaml"
            before = settings.read_text()
            changed = yaml.safe_load(before)
            changed["offline_store"] |= {key: value.isoformat() for key, value in options.items()}
            settings.write_text(yaml.safe_dump(changed))
            store = self.project.store()
            settings.write_text(before)
        else:
            store = self.project.store()
        times = [self.hour + timedelta(minutes=each) for each in minutes]
        entities = pd.DataFrame(
            [
                {"tenant_id": tenant, "asset_id": "meter", "event_timestamp": time}
                for tenant in self.tenants
                for time in times
            ]
        )
        view = f"{name}_{self.unique}"
        rows = store.get_historical_features(entities, [f"{view}:{name}"]).to_df()
        return [None if pd.isna(value) else value for value in rows[name]]

    def expected(self, minutes: list[int], made_at: datetime) -> list[float | None]:
        quarters = [4 + each // 15 for each in minutes]
        return [
            self.value(tenant, each, made_at) if each < 8 else None
            for tenant in self.tenants
            for each in quarters
        ]


@pytest.fixture(params=["ai_hub", "analysis"])
def table(request: pytest.FixtureRequest, database: str, energy: Energy, tmp_path: Path) -> Iterator[Table]:
    registry = f"sqlite:///{tmp_path}/registry.db"
    redis_url = Settings().require("redis_url")
    project = Project(tmp_path / "repo", request.param, database, redis_url, registry).write()
    made = Table(project, energy.now)
    made.create()
    project.declarations.write_text(REPOSITORY.format(unique=made.unique))
    project.done("apply")
    yield made
    project.declarations.write_text("")
    project.done("apply")
    with connect(database, autocommit=True) as connection:
        connection.execute(f"DROP TABLE own_{made.unique} CASCADE".encode())


#: With one between two rows, and one after the last row has ended.
MINUTES = [0, 7, 15, 44, 45, 61]


def test_own_table__history_and_online__as_of_each_time_and_as_known_at(table: Table) -> None:
    assert table.history(MINUTES) == table.expected(MINUTES, table.later)
    assert table.history(MINUTES, known_at=table.known_at) == table.expected(MINUTES, table.first)
    assert table.history(MINUTES, known_at=table.first - QUARTER) == [None] * 2 * len(MINUTES)
    # its rows do not say since when they are there
    assert table.history([0], "level") == [1.0, 1.0]
    with pytest.raises(HistoryNotKnownError, match=f"level_{table.unique}"):
        table.history([0], "level", known_at=table.known_at)

    until = table.hour + timedelta(minutes=1)
    table.project.done("materialize", (until - QUARTER).isoformat(), until.isoformat())
    store = table.project.store()
    answer = store.get_online_features(
        [f"tariff_{table.unique}:tariff"],
        [{"tenant_id": tenant, "asset_id": "meter"} for tenant in [*table.tenants, "nobody"]],
    ).to_dict()
    now = datetime.now(UTC)
    # by Feast's rule a row past its time to live is no answer
    is_current = now - table.hour <= QUARTER
    assert answer["tariff"] == [*(table.expected([0], table.later) if is_current else [None] * 2), None]
    with connect() as connection:
        for tenant in table.tenants:
            with as_tenant(connection, tenant):
                query = f"SELECT DISTINCT tenant_id FROM own_{table.unique}"  # noqa: S608  # made here
                assert connection.execute(query.encode()).fetchall() == [(tenant,)]


def test_own_table__rest_and_export__in_the_services_project_alone(
    table: Table, energy: Energy, tmp_path: Path
) -> None:
    service, registry = f"tariff_{table.unique}", table.project.registry
    clock = Clock(table.hour)

    async def read(reader: FeatureReader) -> None:
        if table.project.name != "ai_hub":
            with pytest.raises(NotFoundError, match=service):
                await ask(reader, table.tenant, "meter", feature_set=service)
            return
        found = []
        for minutes in (3, 14, 16, 29, 31):
            clock.time = table.hour + timedelta(minutes=minutes)
            for tenant in table.tenants:
                (result,) = await ask(reader, tenant, "meter", feature_set=service)
                assert result["features"] == {"tariff": table.value(tenant, 4 + minutes // 15, table.later)}
                assert result["event_timestamp"] == table.hour + minutes // 15 * QUARTER
            found.append(result["source"])
        assert found == ["timescaledb", "redis", "timescaledb", "redis", "timescaledb"]
        clock.time = table.hour + 4 * QUARTER + timedelta(minutes=1)
        (result,) = await ask(reader, table.tenant, "meter", feature_set=service)
        assert result["features"] == {"tariff": None}, "the last row is over"

    run(read, clock, feast_registry_uri=registry, feature_cache_ttl=900)

    settings = Settings(feast_registry_uri=registry, export_storage_path=str(tmp_path / "exports"))
    lab = ExportLab(energy, settings, tmp_path / "exports")
    request = lab.request(hours=1, tenant=table.tenant, feature_set=service)
    if table.project.name != "ai_hub":
        with pytest.raises(NotFoundError, match=service):
            lab.submit(request)
        return
    rows = lab.table(lab.export(request)).to_pylist()
    lab.forget()
    assert [(row["tenant_id"], row["event_timestamp"], row["tariff"]) for row in rows] == [
        (table.tenant, table.time(quarter), table.value(table.tenant, quarter, table.later))
        for quarter in range(4)
    ]

"""A feature repository to measure, opened with Feast's own stores or with ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.repo_config import RepoConfig
from feast.types import Float64

from benchmarks.comparison import OURS, STOCK
from benchmarks.servers import HOST

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.servers import Postgres

OFFLINE = {STOCK: "postgres", OURS: "feast_plugins.offline_store.TimescaleOfflineStore"}
KEYS = ("tenant_id", "asset_id")
TIME, CREATED = "event_timestamp", "created_timestamp"
#: What a row of a view is worth for, as in the product's own repository.
TTL = timedelta(hours=3)


@dataclass(frozen=True)
class Table:
    """A table with keys, times and features of double precision; a feature view of the same name reads it."""

    name: str
    features: tuple[str, ...]

    def view(self) -> FeatureView:
        """The feature view, keyed by tenant and asset."""
        return FeatureView(
            name=self.name,
            entities=entities(),
            ttl=TTL,
            schema=[Field(name=feature, dtype=Float64) for feature in self.features],
            source=PostgreSQLSource(
                name=self.name, table=self.name, timestamp_field=TIME, created_timestamp_column=CREATED
            ),
        )

    def references(self) -> list[str]:
        """Every feature, as requests name it."""
        return [f"{self.name}:{feature}" for feature in self.features]


def entities() -> list[Entity]:
    """Tenant and asset."""
    return [
        Entity(name=key.removesuffix("_id"), join_keys=[key], value_type=ValueType.STRING) for key in KEYS
    ]


def open_store(
    variant: str, server: Postgres, folder: Path, objects: list[Any], **options: Any
) -> FeatureStore:
    """Feature store over `server`; `objects` are applied to a registry file of the variant's own."""
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / f"{variant}.db"),
            entity_key_serialization_version=3,
            offline_store={
                "type": OFFLINE[variant],
                "host": HOST,
                "port": server.port,
                "database": server.database,
                "user": server.user,
                "password": server.password,
                "sslmode": "disable",
            },
            **options,
        )
    )
    store.apply(objects)
    return store

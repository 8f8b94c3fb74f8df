"""Feature stores on a native PostgreSQL and a Valkey: Feast's own classes, and ours."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import redis
from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64, String
from psycopg import sql

from benchmarks.servers import Valkey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from feast.types import FeastType


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
STOCK = ("postgres", "redis", "local")
OURS = (
    "feast_plugins.offline_store.TimescaleOfflineStore",
    "feast_plugins.online_store.CorrectableRedisOnlineStore",
    "feast_plugins.batch_engine.ArrowComputeEngine",
)
SCHEMA = {"load": Float64, "count": Int64, "state": String}


@dataclass
class Lab:
    """A database of its own, and Redis databases 1 and up."""

    dsn: str
    redis: Valkey
    folder: Path

    def execute(self, statement: str, parameters: Any = None) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL(statement), parameters)  # type: ignore[arg-type]  # statements of tests

    def config(
        self,
        kinds: tuple[str, str, str] = OURS,
        *,
        db: int = 1,
        offline: Mapping[str, Any] | None = None,
        online: Mapping[str, Any] | None = None,
        engine: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        address = urlsplit(self.dsn)
        return {
            "project": "lab",
            "provider": "local",
            "registry": str(self.folder / f"{secrets.token_hex(4)}.db"),
            "entity_key_serialization_version": 3,
            "offline_store": {
                "type": kinds[0],
                "host": address.hostname,
                "port": address.port,
                "database": address.path[1:],
                "user": address.username,
                "password": address.password,
                "db_schema": "public",
                "sslmode": "prefer",
            }
            | dict(offline or {}),
            "online_store": {"type": kinds[1], "connection_string": f"127.0.0.1:{self.redis.port},db={db}"}
            | dict(online or {}),
            "batch_engine": {"type": kinds[2]} | dict(engine or {}),
        } | more

    def store(self, *views: FeatureView, **options: Any) -> FeatureStore:
        made = FeatureStore(config=RepoConfig(**self.config(**options)))
        made.apply([*ENTITIES, *views])
        return made

    def client(self, db: int = 1) -> redis.Redis:
        return redis.Redis(port=self.redis.port, db=db)

    def content(self, db: int = 1) -> dict[bytes, tuple[dict[bytes, bytes], int]]:
        """Hash and whole seconds to live of each key."""
        with self.client(db) as client:
            keys = list(client.scan_iter())
            # hundreds of seconds, begun: on a busy machine more than ten pass between two writers
            return {key: (client.hgetall(key), -(-client.ttl(key) // 100)) for key in keys}  # type: ignore[misc, arg-type]


ENTITIES = [
    Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING),
    Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING),
    Entity(name="number", join_keys=["number"], value_type=ValueType.INT64),
]


def view(
    name: str = "meters",
    schema: Mapping[str, FeastType] = SCHEMA,
    *,
    entities: Sequence[str] = ("tenant", "asset"),
    created: str = "created",
    field_mapping: dict[str, str] | None = None,
    ttl: timedelta = timedelta(days=3),
    **source: str,
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[entity for entity in ENTITIES if entity.name in entities],
        schema=[Field(name=feature, dtype=kind) for feature, kind in schema.items()],
        source=PostgreSQLSource(
            name=f"{name}_source",
            timestamp_field="event_timestamp",
            created_timestamp_column=created,
            field_mapping=field_mapping,
            **(source or {"table": "meters"}),
        ),
        ttl=ttl,
    )


@contextmanager
def database(server: str, name: str) -> Iterator[str]:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield server.removesuffix("/postgres") + f"/{name}"
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

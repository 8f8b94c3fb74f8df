"""Two projects in one SQL registry, one Redis and one database, as `feast` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import psycopg
import redis
import sqlalchemy as sa
import yaml
from click.testing import CliRunner
from feast import FeatureStore
from feast.infra.registry.sql import metadata

from ai_hub.cli.feast_commands import commands
from ai_hub.settings import feast_redis_connection
from feast_plugins.online import encoding
from support.feast_process import restored

if TYPE_CHECKING:
    from click.testing import Result

#: The declarations of each project; a module of one name would be that of the other.
DECLARATIONS = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

meter = Entity(name="meter", join_keys=["meter_id"], value_type=ValueType.STRING)
load = FeatureView(
    name="load",
    entities=[meter],
    schema=[Field(name="power", dtype=Float64)],
    source=PostgreSQLSource(
        name="load", table="load_{project}", timestamp_field="at", created_timestamp_column="made"
    ),
    ttl=timedelta(hours=3),
)


@on_demand_feature_view(
    sources=[load], schema=[Field(name="double", dtype=Float64)], mode="python", description="twice the power"
)
def doubled(inputs: dict) -> dict:
    return {{"double": [2 * each for each in inputs["power"]]}}


service = FeatureService(name="power", features=[load, doubled])
"""
TABLE = """
CREATE TABLE load_{0} AS
SELECT number::text AS meter_id, now() - interval '1 hour' AS at, now() AS made, number::float8 AS power
FROM generate_series(1, 3) AS number
"""


@dataclass(frozen=True)
class Project:
    """A repository in a folder of its own."""

    folder: Path
    name: str
    postgres: str
    redis_url: str
    registry: str

    @property
    def declarations(self) -> Path:
        """The repository's only module."""
        return self.folder / f"features_of_{self.name}.py"

    def write(self) -> Project:
        """Write the repository's settings."""
        self.folder.mkdir()
        address = urlsplit(self.postgres)
        config = {
            "project": self.name,
            "provider": "feast_plugins.projects.ProjectProvider",
            "registry": {"registry_type": "sql", "path": self.registry, "cache_ttl_seconds": 60},
            "entity_key_serialization_version": 3,
            "offline_store": {
                "type": "feast_plugins.offline_store.TimescaleOfflineStore",
                "host": address.hostname,
                "port": address.port,
                "database": address.path[1:],
                "user": address.username,
                "password": unquote(address.password or ""),
                "sslmode": "disable",
            },
            "online_store": {
                "type": "feast_plugins.online_store.CorrectableRedisOnlineStore",
                "connection_string": feast_redis_connection(self.redis_url),
            },
            "batch_engine": {"type": "feast_plugins.batch_engine.ArrowComputeEngine"},
        }
        (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
        return self

    def declare(self) -> Project:
        """Declare features of a table of the project's own, and make it."""
        self.declarations.write_text(DECLARATIONS.format(project=self.name))
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(TABLE.format(self.name).encode())
        return self

    def feast(self, *arguments: str, answer: str | None = None) -> Result:
        """Run `feast` in this process."""
        with restored():
            return CliRunner().invoke(commands, ["--chdir", str(self.folder), *arguments], input=answer)

    def done(self, *arguments: str) -> str:
        """What a command that succeeds prints."""
        result = self.feast(*arguments)
        if result.exception:
            raise result.exception
        return result.output

    def store(self) -> FeatureStore:
        """Feast's own class on the repository."""
        return FeatureStore(repo_path=str(self.folder))

    def rows(self) -> dict[str, list[Any]]:
        """All that there is of the project: rows of the registry by table, of Redis and of the table."""
        engine = sa.create_engine(self.registry)
        with engine.connect() as connection:
            found: dict[str, list[Any]] = {
                name: sorted(
                    connection.execute(sa.select(table).where(table.c.project_id == self.name)).all(),
                    key=repr,
                )
                for name, table in metadata.tables.items()
            }
        engine.dispose()
        with redis.Redis.from_url(self.redis_url) as client:
            found["redis"] = sorted(
                (key, sorted(client.hgetall(key).items())) for key in client.scan_iter() if self.owns(key)
            )
        with psycopg.connect(self.postgres) as connection:
            query = f"SELECT * FROM load_{self.name} ORDER BY meter_id"  # noqa: S608  # made here
            found["table"] = connection.execute(query.encode()).fetchall()
        return found

    def owns(self, key: bytes) -> bool:
        """Whether a key of Redis is of this project."""
        try:
            return encoding.parse(key)[1] == self.name
        except encoding.NotOurKeyError:
            return False

"""Feast's registry, read whole, and never while `feast apply` is writing it.

`feast apply` writes each object in a transaction of its own. So the registry is read only when nothing in
it has changed for a moment, and what was read counts only if nothing changed meanwhile. Whether something
changed is one short query that reads no definition.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import copy
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feast.infra.registry.sql import FeastRegistrySchemaError, SqlRegistry, SqlRegistryConfig, metadata
from sqlalchemy import create_engine, event, func, inspect, select, text, union_all
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sqlalchemy.engine import Connection

_CONNECT_TIMEOUT_S: Final = 5
_STATEMENT_TIMEOUT_MS: Final = 10_000
#: The objects of an apply follow each other within milliseconds.
SETTLED_S: Final = 0.3
_TABLES: Final = tuple(
    table
    for table in metadata.sorted_tables
    if {"project_id", "last_updated_timestamp"} <= set(table.columns.keys())
)


class RegistryWatcher:
    """Watches one registry; for one thread."""

    def __init__(self, url: str, project: str) -> None:
        self._project = project
        self._url = make_url(url)
        self._registry: Any = None
        #: what was seen last, since when it has been so, and what the last state read was of
        self._seen: Hashable = None
        self._since = 0.0
        self._read: Hashable = None

    @property
    def changed_s(self) -> float:
        """Seconds since the registry was last seen to change."""
        return time.monotonic() - self._since

    @property
    def is_changing(self) -> bool:
        """Whether there is a newer state than the one that was read last."""
        return self._seen != self._read

    def poll(self) -> Any | None:
        """A registry with the present state in its cache; None: it has not changed, or is changing now.

        Raises:
            SQLAlchemyError: the database does not answer.
            FeastRegistrySchemaError: nothing was ever applied to it.
        """
        if self._registry is None:
            self._registry = self._open()
        token = self._token()
        if token != self._seen:
            self._seen, self._since = token, time.monotonic()
        if not self.is_changing or self.changed_s < SETTLED_S:
            return None
        proto = self._registry.proto()
        if self._token() != token:
            return None
        self._read = token
        state = copy.copy(self._registry)
        state.cached_registry_proto = proto
        state.cached_registry_proto_created = datetime.now(UTC)
        return state

    def reread(self) -> None:
        """Return the present state from the next `poll`, though it has not changed."""
        self._read = None

    def close(self) -> None:
        """Close its connections."""
        if self._registry is not None:
            self._registry.read_engine.dispose()

    def _open(self) -> SqlRegistry:
        # one connection for all questions; to open an object takes a second one
        options: dict[str, Any] = {"pool_size": 1, "max_overflow": 2}
        if self._url.get_backend_name() == "postgresql":
            # few statements run twice, and a pooler between would lose what is prepared
            options["connect_args"] = {"connect_timeout": _CONNECT_TIMEOUT_S, "prepare_threshold": None}
            options["pool_pre_ping"] = True
        config = SqlRegistryConfig(
            path=self._url.render_as_string(hide_password=False),
            # 0: it is never due, so nothing that uses it reads it by itself
            cache_ttl_seconds=0,
            schema_mode="skip",
            sqlalchemy_config_kwargs=options,
        )
        # as Feast's own check, which leaves its connection open where tables are missing
        engine = create_engine(config.path, poolclass=NullPool, connect_args=options.get("connect_args", {}))
        with engine.connect() as connection:
            if missing := metadata.tables.keys() - set(inspect(connection).get_table_names()):
                raise FeastRegistrySchemaError(sorted(missing))
        registry = SqlRegistry(config, self._project, None)
        if self._url.get_backend_name() == "postgresql":
            event.listen(registry.read_engine, "begin", _limit)
        return registry

    def _token(self) -> Hashable:
        """Differs from the last one if anything was written since."""
        backend = self._url.get_backend_name()
        if backend == "sqlite" and (name := self._url.database) and name != ":memory:":
            file = Path(name).stat()
            identity = file.st_dev, file.st_ino
            if self._seen is not None and identity != self._seen[:2]:  # type: ignore[index]
                # another file by this name: the connection has the one that was deleted
                self._registry.read_engine.dispose()
            with self._registry.read_engine.connect() as connection:
                return *identity, connection.execute(text("PRAGMA data_version")).scalar()
        # a row that is written has another xmin, within the same second, too
        version = "sum(xmin::text::bigint)" if backend == "postgresql" else "sum(last_updated_timestamp)"
        query = union_all(*(_count(table, version) for table in _TABLES))
        with self._registry.read_engine.connect() as connection:
            return tuple(tuple(map(str, row)) for row in connection.execute(query))


def _limit(connection: Connection) -> None:
    """In each transaction, as a pooler's sessions are not ours."""
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT_MS}")


def _count(table: Any, version: str) -> Any:
    name = text(f"'{table.name}'")
    return select(name, func.count(), text(version)).select_from(table)

"""Connections of psycopg to Postgres that a pooler can be between: nothing outlives a transaction.

Feast's own give the search path as a start-up option, which PgBouncer refuses, and prepare statements, which
another session does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from feast.infra.offline_stores.contrib.postgres_offline_store import postgres_source
from feast.infra.utils.postgres import connection_utils

if TYPE_CHECKING:
    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig


def open_connection(config: PostgreSQLConfig) -> psycopg.Connection[Any]:
    """A connection whose present transaction, and no other, has the search path of `config`."""
    connection = psycopg.connect(
        connection_utils._get_conninfo(config),  # noqa: SLF001  # Feast has no public way to it
        prepare_threshold=None,
        **options(config),
    )
    connection.execute("SELECT set_config('search_path', %s, true)", [search_path(config)])
    return connection


def options(config: PostgreSQLConfig) -> dict[str, Any]:
    """Arguments of a connection besides who and where."""
    given = connection_utils._get_conn_kwargs(config) | {"keepalives_idle": config.keepalives_idle}  # noqa: SLF001
    return {name: value for name, value in given.items() if value is not None and name != "options"}


def search_path(config: PostgreSQLConfig) -> str:
    """The search path that Feast gives its sessions."""
    path = (config.db_schema or config.user).strip()
    return path if path == "public" else f"{path},public"


def use_in_sources() -> None:
    """Let Feast's Postgres source, which asks the database for columns by itself, connect like this.

    Feast's own offline store is left as it is: it wants connections that no transaction has begun on.
    """
    # there is no option for it, and users declare Feast's class, not one of ours
    source: Any = postgres_source
    source._get_conn = open_connection  # noqa: SLF001

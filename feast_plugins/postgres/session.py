"""Arrow sessions with Postgres, over ADBC.

A query's rows come as the stream of a binary `COPY … TO STDOUT`, decoded into Arrow in C.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import adbc_driver_postgresql
from adbc_driver_manager import AdbcConnection, AdbcDatabase, dbapi
from feast.infra.utils.postgres.connection_utils import _get_conninfo
from psycopg import sql
from psycopg.conninfo import make_conninfo

from feast_plugins.errors import QueryTimeoutError
from feast_plugins.postgres.connection import options, search_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig

_QUERY_CANCELED = "57014"
#: How often a server at work looks whether its client is still there. It ends the work of one that is not.
_CHECK_CLIENT_MS = 2000
#: Of this transaction: a pooler's sessions are not ours, and those of some servers share one backend.
_SETTINGS = sql.SQL(
    "SELECT set_config('client_connection_check_interval', {}, true), "
    "set_config('statement_timeout', {}, true), set_config('search_path', {}, true)"
)


@contextmanager
def connect(config: PostgreSQLConfig, timeout_s: float | None = None) -> Iterator[dbapi.Connection]:
    """One read-only transaction, in which all queries see the same state; an interrupt cancels its query.

    A statement longer than `timeout_s` (0 and None: however long) ends on the server, too. If this process is
    killed, the server notices within seconds and stops.

    Raises:
        QueryTimeoutError: a statement ran longer than `timeout_s`.
    """
    database = _database(make_conninfo(_get_conninfo(config), **options(config)))
    timeout_ms = math.ceil((timeout_s or 0) * 1000)
    # the driver sends BEGIN and COMMIT in one message each; every other statement takes several, which must
    # meet the same session
    with dbapi.Connection(database, AdbcConnection(database), autocommit=False) as connection:
        _execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        settings = map(sql.Literal, (str(_CHECK_CLIENT_MS), str(timeout_ms), search_path(config)))
        _execute(connection, _SETTINGS.format(*settings).as_string(None))
        try:
            yield connection
            connection.adbc_connection.set_autocommit(True)
        except (dbapi.Error, OSError) as error:
            if timeout_s and _is_timeout(error):
                raise QueryTimeoutError(timeout_s) from error
            raise


def _execute(connection: dbapi.Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _is_timeout(error: dbapi.Error | OSError) -> bool:
    """An error in the middle of a stream comes through Arrow, as an `OSError` without a code."""
    if isinstance(error, dbapi.Error):
        return bool(error.sqlstate == _QUERY_CANCELED)
    return "statement timeout" in str(error)


class _KeptDatabase(AdbcDatabase):
    """Stays open when a connection that used it closes, because it costs ten times what a connection does."""

    def close(self) -> None:
        """Nothing; it holds no connection."""


@lru_cache(maxsize=16)
def _database(conninfo: str) -> AdbcDatabase:
    return _KeptDatabase(driver=adbc_driver_postgresql._driver_path(), uri=conninfo)  # noqa: SLF001  # `connect` of its dbapi module offers no database

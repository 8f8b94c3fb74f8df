"""Connections to TimescaleDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ai_hub.errors import ServiceDownError
from ai_hub.settings import Settings, postgres_environment

if TYPE_CHECKING:
    from psycopg import BaseConnection
    from psycopg.rows import TupleRow

# the embedded server answers one statement at a time, and a long one is no failure
_CONNECT_TIMEOUT_S = 60
#: A server that has vanished is noticed in a minute: by who sends (`tcp_user_timeout`, in ms), and by who
#: waits for an answer. A DSN may say otherwise.
_VANISHED = {
    "tcp_user_timeout": str(1000 * _CONNECT_TIMEOUT_S),
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_UTC = {"UTC", "Etc/UTC", "GMT"}
_PREPARE_THRESHOLD = 5  # psycopg's own default


def connect(
    dsn: str | None = None, *, autocommit: bool = False, application_name: str = "ai-hub"
) -> psycopg.Connection[TupleRow]:
    """Open a connection to `dsn` (default: setting `TIMESCALE_DSN`), in UTC.

    Use it as a context manager: it commits, or rolls back on an error, and closes. Its transactions may run
    in different sessions of the server (a pooler): set and lock only what ends with a transaction.

    Raises:
        SettingMissingError: no server is configured or running.
        ServiceDownError: the server does not answer.
    """
    settings = Settings()
    dsn = dsn or settings.require("timescale_dsn")
    try:
        connection = psycopg.connect(
            _with_defaults(dsn),
            autocommit=True,
            application_name=application_name,
            connect_timeout=_CONNECT_TIMEOUT_S,
            prepare_threshold=prepare_threshold(settings),
        )
        _use_utc(connection)
        connection.autocommit = autocommit
    except psycopg.OperationalError as error:
        where = postgres_environment(dsn)
        reason = str(error).strip().splitlines()[-1]
        raise ServiceDownError("TimescaleDB", f"{where['PGHOST']}:{where['PGPORT']}", reason) from error
    return connection


def _with_defaults(dsn: str) -> str:
    own = conninfo_to_dict(dsn)
    return make_conninfo(dsn, **{name: value for name, value in _VANISHED.items() if name not in own})


def _use_utc(connection: psycopg.Connection[Any]) -> None:
    """Poolers refuse start-up options; the time zone is one of the few settings that they keep by client."""
    if has_utc(connection):
        return
    try:
        connection.execute("SET TimeZone TO 'UTC'")
    except psycopg.Error:
        connection.close()
        raise


def has_utc(connection: BaseConnection[Any]) -> bool:
    """Whether the session's time zone is UTC, as the server said."""
    return connection.info.parameter_status("TimeZone") in _UTC


def prepare_threshold(settings: Settings) -> int | None:
    """After how many runs psycopg prepares a statement; None: never, whatever a call says."""
    return None if settings.timescale_pooled else _PREPARE_THRESHOLD


def shares_backend(connection: psycopg.Connection[Any]) -> bool:
    """Whether sessions share one backend, as on the embedded server: a transaction holds up all others."""
    row = connection.execute("SELECT version() LIKE '%%compiled by emcc%%'").fetchone()
    return row == (True,)


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Whether a pooler is between us and the server: it numbers its clients itself."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row != (connection.info.backend_pid,) and not shares_backend(connection)

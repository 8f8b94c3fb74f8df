"""Connections to TimescaleDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from ai_hub.errors import ServiceDownError
from ai_hub.settings import Settings, postgres_environment

if TYPE_CHECKING:
    from psycopg.rows import TupleRow

# the embedded server answers one statement at a time, and a long one is no failure
_CONNECT_TIMEOUT_S = 60


def connect(
    dsn: str | None = None, *, autocommit: bool = False, application_name: str = "ai-hub"
) -> psycopg.Connection[TupleRow]:
    """Open a connection to `dsn` (default: setting `TIMESCALE_DSN`), in UTC.

    Use it as a context manager: it commits, or rolls back on an error, and closes.

    Raises:
        SettingMissingError: no server is configured or running.
        ServiceDownError: the server does not answer.
    """
    dsn = dsn or Settings().require("timescale_dsn")
    try:
        return psycopg.connect(
            dsn,
            autocommit=autocommit,
            application_name=application_name,
            connect_timeout=_CONNECT_TIMEOUT_S,
            options="-c TimeZone=UTC -c client_min_messages=warning",
        )
    except psycopg.OperationalError as error:
        where = postgres_environment(dsn)
        reason = str(error).strip().splitlines()[-1]
        raise ServiceDownError("TimescaleDB", f"{where['PGHOST']}:{where['PGPORT']}", reason) from error

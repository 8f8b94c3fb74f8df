"""Short transactions of one tenant, or of the owner."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import psycopg

from ai_hub.db.connection import connect
from ai_hub.db.tenant_scope import as_tenant, service_dsn
from ai_hub.errors import ServiceDownError
from ai_hub.settings import postgres_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from psycopg.rows import TupleRow

    from ai_hub.settings import Settings


@contextmanager
def transaction(settings: Settings, tenant: str | None = None) -> Iterator[psycopg.Connection[TupleRow]]:
    """One short transaction: one that sees the rows of `tenant` only, or without it the owner's.

    Raises:
        ServiceDownError: the server does not answer, or went away.
    """
    dsn = settings.require("timescale_dsn") if tenant is None else service_dsn(settings)
    try:
        with connect(dsn, application_name="ai-hub jobs") as connection:
            if tenant is None:
                yield connection
            else:
                with as_tenant(connection, tenant):
                    yield connection
    except psycopg.OperationalError as error:
        where = postgres_environment(dsn)
        reason = str(error).strip().partition("\n")[0]
        raise ServiceDownError("TimescaleDB", f"{where['PGHOST']}:{where['PGPORT']}", reason) from error


@asynccontextmanager
async def brief_session(settings: Settings, limit_s: int) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """One transaction of the owner that reads; each statement, and connecting, fails after `limit_s`.

    Raises:
        SettingMissingError: no server is configured or running.
        psycopg.Error: the server does not answer in time.
    """
    async with (
        await psycopg.AsyncConnection.connect(
            settings.require("timescale_dsn"),
            autocommit=True,
            application_name="ai-hub jobs",
            connect_timeout=limit_s,
            prepare_threshold=None,
        ) as connection,
        connection.transaction(),
    ):
        await connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{limit_s}s"])
        yield connection

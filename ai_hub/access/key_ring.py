"""The keys in force, in memory: no request waits for the database to learn who asks."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

import psycopg
import structlog

from ai_hub.access.api_key import digest
from ai_hub.access.principal import Principal, Scope
from ai_hub.errors import AiHubError, ServiceDownError
from ai_hub.settings import postgres_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai_hub.access.api_key import KeyText

_log = structlog.get_logger(__name__)

#: Expired ones as well: their owners are told so. Sorted, so that equal answers mean nothing has changed.
_KEYS: Final[LiteralString] = (
    "SELECT key_id, sha256, name, tenants, scopes,"
    " extract(epoch FROM expires_at)::float8, revoked_at IS NOT NULL FROM public.api_keys ORDER BY key_id"
)
#: Least seconds between two looks for an unknown key, and how long one may take.
EXTRA_LOOK_S: Final = 0.25
_LOOK_LIMIT_S: Final = 5.0
_SCOPES: Final = {str(scope): scope for scope in Scope}


class _Entry(NamedTuple):
    sha256: bytes
    principal: Principal
    expires_at: float
    revoked: bool


class KeyRing:
    """Keys as they were at the last look; between looks and through outages, those go on."""

    def __init__(self, dsn: Callable[[], str], *, every_s: float) -> None:
        self._dsn = dsn
        self._every_s = every_s
        self._rows: Sequence[Any] | None = None
        self._entries: dict[str, _Entry] = {}
        self._connection: psycopg.AsyncConnection | None = None
        self._look: asyncio.Task[None] | None = None
        self._last_look = -EXTRA_LOOK_S
        self._failure: AiHubError | None = None

    @property
    def loaded(self) -> bool:
        """Whether the database has ever answered."""
        return self._rows is not None

    def find(self, key: KeyText) -> tuple[Principal | None, str]:
        """Whom a key stands for; else None and why not: `unknown`, `wrong`, `revoked` or `expired`."""
        entry = self._entries.get(key.key_id)
        if entry is None:
            return None, "unknown"
        if not hmac.compare_digest(entry.sha256, digest(key.secret)):
            return None, "wrong"
        if entry.revoked:
            return None, "revoked"
        if entry.expires_at <= time.time():
            return None, "expired"
        return entry.principal, ""

    async def look_again(self) -> None:
        """Look for keys made since the last look; all who ask share one, which waits if it comes too soon.

        Raises:
            AiHubError: the keys were never read, and cannot be.
        """
        if self._look is None:
            self._look = asyncio.create_task(self._refresh_soon())
            self._look.add_done_callback(self._looked)
        await asyncio.shield(self._look)
        if not self.loaded:
            raise self._failure or ServiceDownError("TimescaleDB", "startup", "the keys are not read yet")

    async def keep(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            if self._look is None:
                self._look = asyncio.create_task(self._refresh())
                self._look.add_done_callback(self._looked)
            await asyncio.shield(self._look)
            await asyncio.sleep(self._every_s)

    async def close(self) -> None:
        """Let go of the database."""
        if self._look is not None:
            self._look.cancel()
        await self._disconnect()

    def _looked(self, look: asyncio.Task[None]) -> None:
        del look
        self._look = None

    async def _refresh_soon(self) -> None:
        await asyncio.sleep(max(0.0, self._last_look + EXTRA_LOOK_S - time.monotonic()))
        await self._refresh()

    async def _refresh(self) -> None:
        self._last_look = time.monotonic()
        try:
            rows = await self._read()
        except (psycopg.Error, OSError, TimeoutError, AiHubError) as error:
            await self._disconnect()
            if self._failure is None:
                _log.warning("api_keys_not_refreshed", reason=type(error).__name__, keys=len(self._entries))
            self._failure = self._described(error)
            return
        if self._failure is not None:
            _log.info("api_keys_refreshed_again", keys=len(rows))
        self._failure = None
        if rows != self._rows:
            self._entries = {row[0]: _entry(row) for row in rows}
            self._rows = rows

    async def _read(self) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LOOK_LIMIT_S
        if self._connection is None:
            async with asyncio.timeout_at(until):
                self._connection = await psycopg.AsyncConnection.connect(
                    self._dsn(), autocommit=True, prepare_threshold=None, application_name="ai-hub api keys"
                )
        hanging_up = loop.call_at(until, _hang_up, self._connection)
        try:
            return await (await self._connection.execute(_KEYS)).fetchall()
        except psycopg.OperationalError as error:
            if loop.time() >= until:
                raise TimeoutError from error
            raise
        finally:
            hanging_up.cancel()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _described(self, error: BaseException) -> AiHubError:
        if isinstance(error, AiHubError):
            return error
        if isinstance(error, psycopg.errors.UndefinedTable):
            return ServiceDownError(
                "TimescaleDB", "table api_keys", "it is missing", hint="Run `ai-hub migrate`."
            )
        where = postgres_environment(self._dsn())
        reason = (str(error).strip().splitlines() or ["no answer in time"])[-1]
        return ServiceDownError("TimescaleDB", f"{where['PGHOST']}:{where['PGPORT']}", reason)


def _hang_up(connection: psycopg.AsyncConnection) -> None:
    """End a query. Cancelled, psycopg would ask the server to end it, and wait ten more seconds for that."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _entry(row: Any) -> _Entry:
    key_id, sha256, name, tenants, scopes, expires_at, revoked = row
    # a scope this version does not know grants nothing
    known = frozenset(_SCOPES[scope] for scope in scopes if scope in _SCOPES)
    principal = Principal(name, frozenset(tenants), known, identity=key_id)
    return _Entry(bytes(sha256), principal, float("inf") if expires_at is None else expires_at, revoked)

"""The keys that callers use, in memory: each is read by its id when it first comes and after a change."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

import psycopg
import structlog

from ai_hub.access.api_keys import digest
from ai_hub.access.principal import Principal, Scope
from ai_hub.errors import AiHubError, ServiceDownError
from ai_hub.settings import postgres_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from ai_hub.access.api_keys import KeyText

_log = structlog.get_logger(__name__)

#: Revoked and expired ones as well: their owners are told so.
_KEYS: Final[LiteralString] = (
    "SELECT key_id, sha256, name, tenants, scopes,"
    " extract(epoch FROM expires_at)::float8, revoked_at IS NOT NULL"
    " FROM public.api_keys WHERE key_id = ANY(%s)"
)
#: Differs after every change or deletion of a key; one row, however many keys there are.
_REVISION: Final[LiteralString] = "SELECT revision FROM public.api_key_revision"
#: Least seconds between two reads of unknown keys, and how long one read may take.
EXTRA_LOOK_S: Final = 0.25
_LOOK_LIMIT_S: Final = 5.0
#: Keys that are held; of more, those that were used last.
_MOST_HELD: Final = 10_000
_SCOPES: Final = {str(scope): scope for scope in Scope}


class _Entry(NamedTuple):
    sha256: bytes
    principal: Principal
    expires_at: float
    revoked: bool


@dataclass
class _Look:
    """A read of unknown keys that has not begun; requests join it."""

    task: asyncio.Task[None]
    key_ids: set[str] = field(default_factory=set)


class KeyRing:
    """Keys as they were read last; through outages, those go on."""

    def __init__(self, dsn: Callable[[], str], *, every_s: float, most: int = _MOST_HELD) -> None:
        self._dsn = dsn
        self._every_s = every_s
        self._most = most
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._revision: int | None = None
        self._connection: psycopg.AsyncConnection | None = None
        #: one statement at a time on the connection
        self._reading = asyncio.Lock()
        self._look: _Look | None = None
        self._last_look = -EXTRA_LOOK_S
        self._is_failing = False

    @property
    def loaded(self) -> bool:
        """Whether the database has ever answered."""
        return self._revision is not None

    def find(self, key: KeyText) -> tuple[Principal | None, str]:
        """Whom a key stands for; else None and why not: `unknown`, `wrong`, `revoked` or `expired`."""
        entry = self._entries.get(key.key_id)
        if entry is None:
            return None, "unknown"
        if not hmac.compare_digest(entry.sha256, digest(key.secret)):
            return None, "wrong"
        self._entries.move_to_end(key.key_id)
        if entry.revoked:
            return None, "revoked"
        if entry.expires_at <= time.time():
            return None, "expired"
        return entry.principal, ""

    async def look_up(self, key_id: str) -> None:
        """Read a key that is not held; requests of the same quarter of a second share one query.

        Raises:
            AiHubError: it cannot be read now.
        """
        if self._look is None:
            task = asyncio.create_task(self._look_soon(), name="api keys")
            # whoever waited may be gone
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._look = _Look(task)
        self._look.key_ids.add(key_id)
        await asyncio.shield(self._look.task)

    async def keep(self) -> None:
        """Every few seconds read the keys that are held again if any key has changed, until cancelled."""
        while True:
            with suppress(AiHubError):  # noted in the log
                await self._follow_changes()
            await asyncio.sleep(self._every_s)

    async def close(self) -> None:
        """Let go of the database."""
        if self._look is not None:
            self._look.task.cancel()
        await self._disconnect()

    async def _look_soon(self) -> None:
        await asyncio.sleep(max(0.0, self._last_look + EXTRA_LOOK_S - time.monotonic()))
        async with self._reading:
            look, self._look = self._look, None
            self._last_look = time.monotonic()
            if look is not None:
                await self._read_keys(look.key_ids)

    async def _follow_changes(self) -> None:
        async with self._reading:
            ((revision,),) = await self._read(_REVISION)
            if revision != self._revision:
                await self._read_keys(set(self._entries))
                self._revision = revision

    async def _read_keys(self, key_ids: AbstractSet[str]) -> None:
        if not key_ids:
            return
        rows = {row[0]: row for row in await self._read(_KEYS, [list(key_ids)])}
        for key_id in key_ids:
            if key_id in rows:
                self._entries[key_id] = _entry(rows[key_id])
            else:
                self._entries.pop(key_id, None)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)

    async def _read(self, query: LiteralString, parameters: Sequence[object] = ()) -> Sequence[Any]:
        try:
            rows = await self._execute(query, parameters)
        except (psycopg.Error, OSError, TimeoutError, AiHubError) as error:
            await self._disconnect()
            if not self._is_failing:
                _log.warning("api_keys_not_read", reason=type(error).__name__, keys=len(self._entries))
            self._is_failing = True
            raise self._described(error) from error
        if self._is_failing:
            _log.info("api_keys_read_again")
        self._is_failing = False
        return rows

    async def _execute(self, query: LiteralString, parameters: Sequence[object]) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LOOK_LIMIT_S
        if self._connection is None:
            async with asyncio.timeout_at(until):
                self._connection = await psycopg.AsyncConnection.connect(
                    self._dsn(), autocommit=True, prepare_threshold=None, application_name="ai-hub api keys"
                )
        hanging_up = loop.call_at(until, _hang_up, self._connection)
        try:
            return await (await self._connection.execute(query, parameters)).fetchall()
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
                "TimescaleDB", "the table of API keys", "it is missing", hint="Run `ai-hub migrate`."
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

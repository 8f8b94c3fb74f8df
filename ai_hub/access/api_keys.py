"""API keys of the REST service: made, listed and revoked in TimescaleDB, and cached by the service."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import sql

from ai_hub.access.principal import Principal, Scope
from ai_hub.db.connection import connect
from ai_hub.db.retired import require_in_use
from ai_hub.errors import AiHubError, BadInputError, ConflictError, NotFoundError, ServiceDownError
from ai_hub.names import check_workspace
from ai_hub.settings import postgres_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import timedelta


PREFIX: Final = "aih_"
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH: Final = 12
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(r"aih_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_NAME_LENGTH: Final = 100
_COLUMNS: Final = sql.SQL(
    "key_id, name, tenants, scopes, created_by, created_at, expires_at, revoked_at, CASE"
    " WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'active' END"
)


class KeyText(NamedTuple):
    """A key in clear text, which only its owner has."""

    key_id: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.key_id}_{self.secret}"

    def __repr__(self) -> str:
        return f"{PREFIX}{self.key_id}_…"


def new_key() -> KeyText:
    """A new random key."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    return KeyText(key_id, secrets.token_urlsafe(_SECRET_BYTES))


def parse(text: str) -> KeyText | None:
    """The parts of a key; None when it is not one."""
    match = _FORM.fullmatch(text)
    return None if match is None else KeyText(match[1], match[2])


def digest(secret: str) -> bytes:
    """SHA-256 of a secret, which is what the database stores."""
    return hashlib.sha256(secret.encode("ascii")).digest()


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret; `state` is active, expired or revoked."""

    key_id: str
    name: str
    tenants: list[str]
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    state: str


def create(
    name: str,
    tenants: Iterable[str],
    scopes: Iterable[Scope],
    *,
    expires_in: timedelta | None = None,
    created_by: str,
    dsn: str | None = None,
) -> tuple[ApiKey, KeyText]:
    """Make a key for these tenants with these scopes; its secret is in the answer and nowhere else.

    Raises:
        BadInputError: no tenant, no scope, or a name that no tenant or key can have.
        ConflictError: one of the tenants has an active key of this name.
    """
    workspaces, scope_names = sorted({check_workspace(tenant) for tenant in tenants}), sorted(set(scopes))
    if not workspaces or not scope_names:
        raise BadInputError("A key needs a tenant and a scope.", hint="Add --tenant, and --role or --scope.")
    if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
        raise BadInputError(
            f"A key's name has 1 to {_NAME_LENGTH} printable characters.", hint="Choose another."
        )
    text = new_key()
    with connect(dsn, application_name="ai-hub keys") as connection:
        for tenant in workspaces:
            require_in_use(connection, tenant)
        # two keys of one name made at once would not see each other; reading goes on
        connection.execute("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE")
        taken = connection.execute(
            "SELECT key_id FROM api_keys WHERE name = %s AND tenants && %s::text[] AND revoked_at IS NULL"
            " AND (expires_at IS NULL OR expires_at > now())",
            [name, workspaces],
        ).fetchone()
        if taken is not None:
            raise ConflictError(
                f"{', '.join(workspaces)} has a key {name!r} already: {taken[0]}.",
                hint=f"Choose another name, or first `ai-hub keys revoke {taken[0]}`.",
            )
        row = connection.execute(
            sql.SQL(
                "INSERT INTO api_keys (key_id, sha256, name, tenants, scopes, created_by, expires_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, now() + %s::interval) RETURNING {}"
            ).format(_COLUMNS),
            [text.key_id, digest(text.secret), name, workspaces, scope_names, created_by, expires_in],
        ).fetchone()
    return _key(row), text


def keys(tenant: str | None = None, *, limit: int = 1000, dsn: str | None = None) -> list[ApiKey]:
    """The newest keys (default: of all tenants), the newest first."""
    # two conditions, so that each has its index
    where = sql.SQL("true" if tenant is None else "tenants @> ARRAY[%(tenant)s::text]")
    with connect(dsn, application_name="ai-hub keys") as connection:
        rows = connection.execute(
            sql.SQL(
                "SELECT {} FROM api_keys WHERE {} ORDER BY created_at DESC, key_id LIMIT %(limit)s"
            ).format(_COLUMNS, where),
            {"tenant": tenant, "limit": limit},
        ).fetchall()
    return [_key(row) for row in rows]


def revoke(key_id: str, *, dsn: str | None = None) -> tuple[ApiKey, bool]:
    """End a key; tells whether it was in force until now. Takes the id, never the key itself.

    Raises:
        NotFoundError: there is no such key.
    """
    with connect(dsn, application_name="ai-hub keys") as connection:
        before = connection.execute(
            sql.SQL("SELECT {} FROM api_keys WHERE key_id = %s FOR UPDATE").format(_COLUMNS), [key_id]
        ).fetchone()
        row = connection.execute(
            sql.SQL(
                "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = %s RETURNING {}"
            ).format(_COLUMNS),
            [key_id],
        ).fetchone()
    if before is None:
        raise NotFoundError(f"There is no key {key_id[:12]!r}.", hint="See `ai-hub keys list` for the ids.")
    return _key(row), _key(before).state == "active"


def _key(row: Any) -> ApiKey:
    return ApiKey(*row)


_log = structlog.get_logger(__name__)

#: Revoked and expired ones as well, so that their owners are told.
_KEYS: Final[LiteralString] = (
    "SELECT key_id, sha256, name, tenants, scopes,"
    " extract(epoch FROM expires_at)::float8, revoked_at IS NOT NULL"
    " FROM public.api_keys WHERE key_id = ANY(%s)"
)
#: Differs after every change or deletion of a key; one row, however many keys there are.
_REVISION: Final[LiteralString] = "SELECT revision FROM public.api_key_revision"
#: Seconds between two loads of unknown keys at least, and the timeout of one.
MIN_LOAD_INTERVAL_S: Final = 0.25
_LOAD_TIMEOUT_S: Final = 5.0
#: Capacity; the least recently used keys are dropped.
_CAPACITY: Final = 10_000
_SCOPES: Final = {str(scope): scope for scope in Scope}


class _Entry(NamedTuple):
    sha256: bytes
    principal: Principal
    expires_at: float
    revoked: bool


@dataclass
class _PendingLoad:
    """A load of unknown keys that has not begun; requests join it."""

    task: asyncio.Task[None]
    key_ids: set[str] = field(default_factory=set)


class KeyCache:
    """API keys by id. During an outage of the database cached keys go on working."""

    def __init__(self, dsn: Callable[[], str], *, every_s: float, capacity: int = _CAPACITY) -> None:
        self._dsn = dsn
        self._every_s = every_s
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._revision: int | None = None
        self._connection: psycopg.AsyncConnection | None = None
        #: one statement at a time on the connection
        self._lock = asyncio.Lock()
        self._pending: _PendingLoad | None = None
        self._last_load = -MIN_LOAD_INTERVAL_S
        self._is_failing = False

    @property
    def loaded(self) -> bool:
        """Whether the database has ever answered."""
        return self._revision is not None

    def find(self, key: KeyText) -> tuple[Principal | None, str]:
        """The caller of a key; else None and why: `unknown`, `wrong`, `revoked` or `expired`."""
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

    async def load(self, key_id: str) -> None:
        """Load a key; requests of the same quarter of a second share one query.

        Raises:
            AiHubError: it cannot be read now.
        """
        if self._pending is None:
            task = asyncio.create_task(self._load_batch(), name="api keys")
            # the requests that waited may be gone
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._pending = _PendingLoad(task)
        self._pending.key_ids.add(key_id)
        await asyncio.shield(self._pending.task)

    async def keep_fresh(self) -> None:
        """Load the cached keys again within `every_s` seconds of any change, until cancelled."""
        while True:
            with suppress(AiHubError):  # logged
                await self._refresh()
            await asyncio.sleep(self._every_s)

    async def close(self) -> None:
        """Close the connection."""
        if self._pending is not None:
            self._pending.task.cancel()
        await self._disconnect()

    async def _load_batch(self) -> None:
        await asyncio.sleep(max(0.0, self._last_load + MIN_LOAD_INTERVAL_S - time.monotonic()))
        async with self._lock:
            pending, self._pending = self._pending, None
            self._last_load = time.monotonic()
            if pending is not None:
                await self._read_keys(pending.key_ids)

    async def _refresh(self) -> None:
        async with self._lock:
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
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    async def _read(self, query: LiteralString, parameters: Sequence[object] = ()) -> Sequence[Any]:
        try:
            rows = await self._execute(query, parameters)
        except (psycopg.Error, OSError, TimeoutError, AiHubError) as error:
            await self._disconnect()
            if not self._is_failing:
                _log.warning("api_keys.read_failed", reason=type(error).__name__, keys=len(self._entries))
            self._is_failing = True
            raise self._described(error) from error
        if self._is_failing:
            _log.info("api_keys.recovered")
        self._is_failing = False
        return rows

    async def _execute(self, query: LiteralString, parameters: Sequence[object]) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LOAD_TIMEOUT_S
        if self._connection is None:
            async with asyncio.timeout_at(until):
                self._connection = await psycopg.AsyncConnection.connect(
                    self._dsn(), autocommit=True, prepare_threshold=None, application_name="ai-hub api keys"
                )
        hang_up = loop.call_at(until, _hang_up, self._connection)
        try:
            return await (await self._connection.execute(query, parameters)).fetchall()
        except psycopg.OperationalError as error:
            if loop.time() >= until:
                raise TimeoutError from error
            raise
        finally:
            hang_up.cancel()

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
    granted = frozenset(_SCOPES[scope] for scope in scopes if scope in _SCOPES)
    principal = Principal(name, frozenset(tenants), granted, identity=key_id)
    return _Entry(bytes(sha256), principal, float("inf") if expires_at is None else expires_at, revoked)

"""TimescaleDB for requests: few connections, timeouts, a circuit breaker; and a cache of tenants' assets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from bisect import bisect
from collections import deque
from contextlib import asynccontextmanager, nullcontext, suppress
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
import structlog
from prometheus_client import Histogram

from ai_hub.concurrency import Breaker, FairSemaphore, LimitReachedError, UnavailableError
from ai_hub.db.connection import has_utc, prepare_threshold
from ai_hub.db.tenant_scope import ENTER, service_dsn
from ai_hub.errors import SettingMissingError
from ai_hub.names import check_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import LiteralString, TypeVar

    from psycopg.rows import TupleRow

    from ai_hub.concurrency import RenewableTimeout
    from ai_hub.settings import ServiceSettings, Settings

    Connection = psycopg.AsyncConnection[TupleRow]
    Result = TypeVar("Result")
    from collections.abc import Mapping, Sequence


_log = structlog.get_logger(__name__)
_QUERIES: Final = Histogram(
    "ai_hub_feature_query_seconds",
    "Seconds of a computation in TimescaleDB, its wait for a connection not counted",
    ["result"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
SERVER = "timescaledb"
_LEAST_CONNECT_S = 2
#: Errors of one query, which must not open the breaker for the others.
_HARMLESS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.InternalError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
)
_MS = 1000
#: Settings of a transaction: the tenant scope, and one plan for a prepared statement, as planning takes
#: longer than the query.
_BEGIN: LiteralString = (
    ENTER
    + ", set_config('statement_timeout', %s, true), set_config('plan_cache_mode', 'force_generic_plan', true)"
)
_BEGIN_IN_UTC: LiteralString = _BEGIN + ", set_config('TimeZone', 'UTC', true)"


class Database:
    """Runs short read-only transactions, with limits on how many run and how many wait."""

    def __init__(
        self,
        dsn: str | None,
        options: ServiceSettings,
        breaker: Breaker,
        prepare_threshold: int | None = None,
    ) -> None:
        self._dsn = dsn
        self._prepare_threshold = prepare_threshold
        self._timeout_s = options.database_timeout_s
        self._semaphore = FairSemaphore(options.database_connections, max_waiting=options.database_queue)
        self._breaker = breaker
        self._idle: deque[Connection] = deque()

    @asynccontextmanager
    async def slot(self, tenant: str, within: RenewableTimeout | None = None) -> AsyncIterator[None]:
        """Hold one of the connections in the block; tenants wait in rotation, no longer than `within`.

        Raises:
            UnavailableError: too many wait already, or none was free in time.
        """
        try:
            async with within or nullcontext():
                await self._semaphore.acquire(tenant)
        except LimitReachedError:
            raise UnavailableError(SERVER, "queue_full") from None
        except TimeoutError:
            raise UnavailableError(SERVER, "timeout") from None
        try:
            yield
        finally:
            self._semaphore.release()

    async def run(self, tenant: str, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """The result of `work` in one transaction of `tenant`; the caller holds a slot.

        Raises:
            UnavailableError: the server does not answer in time, or its breaker is open.
            psycopg.Error: the query is wrong.
        """
        if self._dsn is None:
            raise UnavailableError(SERVER, "unset")
        started = time.perf_counter()
        result = "failed"
        try:
            with self._breaker:
                found = await self._within_limit(self._dsn, tenant, work)
            result = "done"
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError, OSError) as error:
            reason = "timeout" if isinstance(error, TimeoutError | psycopg.errors.QueryCanceled) else "down"
            _log.warning("database.query_failed", reason=reason, error=_first_line(error))
            raise UnavailableError(SERVER, reason) from error
        finally:
            _queries(result).observe(time.perf_counter() - started)
        return found

    async def aclose(self) -> None:
        """Close every connection."""
        while self._idle:
            await self._idle.pop().close()

    async def _within_limit(
        self, dsn: str, tenant: str, work: Callable[[Connection], Awaitable[Result]]
    ) -> Result:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        while True:
            connection, is_fresh = await self._connect(dsn, deadline)
            try:
                return await self._use(connection, tenant, work, deadline)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                # an idle connection was cut meanwhile: try another one
                if is_fresh or not connection.broken or _is_past(deadline):
                    if _is_past(deadline):
                        raise TimeoutError("the query took too long") from error
                    raise

    async def _connect(self, dsn: str, deadline: float) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection, False
        async with asyncio.timeout_at(deadline):
            fresh = await psycopg.AsyncConnection.connect(
                dsn,
                application_name="ai-hub-serving",
                connect_timeout=max(_LEAST_CONNECT_S, round(self._timeout_s)),
                prepare_threshold=self._prepare_threshold,
                autocommit=True,
            )
        return fresh, True

    async def _use(
        self,
        connection: Connection,
        tenant: str,
        work: Callable[[Connection], Awaitable[Result]],
        deadline: float,
    ) -> Result:
        loop = asyncio.get_running_loop()
        # cancelling would send a request to a server that does not answer, and wait
        timer = loop.call_at(deadline, _cut, connection)
        kept = False
        try:
            async with connection.transaction():
                left_ms = max(1, round((deadline - loop.time()) * _MS))
                begin = _BEGIN if has_utc(connection) else _BEGIN_IN_UTC
                await connection.execute(begin, [check_tenant(tenant), str(left_ms)], prepare=True)
                found = await work(connection)
            kept = not connection.closed
        finally:
            timer.cancel()
            if kept:
                self._idle.append(connection)
            else:
                with suppress(psycopg.Error, OSError):
                    connection.pgconn.finish()
        return found


@lru_cache(maxsize=8)
def _queries(result: str) -> Histogram:
    """Computations with `result`: done or failed."""
    return _QUERIES.labels(result)


def _cut(connection: Connection) -> None:
    """Shut the connection's socket down, which ends every wait on it."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as other:
        other.shutdown(socket.SHUT_RDWR)


def _is_past(deadline: float) -> bool:
    return asyncio.get_running_loop().time() >= deadline


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@asynccontextmanager
async def open_database(options: ServiceSettings, settings: Settings) -> AsyncIterator[Database]:
    """A database that connects when it is first used."""
    try:
        dsn = service_dsn(settings)
    except SettingMissingError:
        dsn = None
    breaker = Breaker(SERVER, options.breaker_failures, options.breaker_pause_s, harmless=_HARMLESS)
    database = Database(dsn, options, breaker, prepare_threshold(settings))
    try:
        yield database
    finally:
        await database.aclose()


_TTL_S = 600.0
_RETRY_S = 5.0
_MAX_OF_TENANT = 50_000
#: Names on either side, in order, that a wrong one is compared with.
_NEIGHBOURS = 20
#: Seconds to wait for the list.
_HINT_S = 0.25
#: Capacity, of all tenants together.
_CAPACITY = 200_000
_MAX_TENANTS = 10_000
#: How long a tenant that made room is not read again.
_DROPPED_S = 60.0
_QUERY = "SELECT asset_id, timezone FROM assets WHERE tenant_id = %s ORDER BY asset_id LIMIT %s"


class _TenantAssets(NamedTuple):
    #: when they are read again, whether or not there was room to keep them
    until: float
    zones: Mapping[str, str] = {}
    #: sorted
    names: Sequence[str] = ()


class AssetDirectory:
    """Time zone of each asset, by tenant; read in the background."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tenants: dict[str, _TenantAssets] = {}
        #: those whose assets are kept, the oldest first
        self._kept: dict[str, None] = {}
        self._count = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def zones(self, tenant: str) -> Mapping[str, str]:
        """Time zone of each of the tenant's assets, as far as it was read."""
        known = self._tenants.get(tenant)
        return known.zones if known else {}

    def refresh(self, tenant: str) -> None:
        """Begin to read the tenant's assets, unless they were read within ten minutes."""
        known = self._tenants.get(tenant)
        if (known is None or time.monotonic() > known.until) and tenant not in self._tasks:
            task = asyncio.create_task(self._read(tenant), name="assets")
            self._tasks[tenant] = task
            task.add_done_callback(lambda _: self._tasks.pop(tenant, None))

    async def nearest(self, tenant: str, asset: str) -> str | None:
        """The asset whose name is most like `asset`; None: there is none, or it is not known yet."""
        self.refresh(tenant)
        if tenant not in self._tenants and (task := self._tasks.get(tenant)) is not None:
            await asyncio.wait([task], timeout=_HINT_S)
        known = self._tenants.get(tenant)
        if known is None:
            return None
        # comparing with thousands of names would block the event loop
        index = bisect(known.names, asset)
        neighbours = known.names[max(0, index - _NEIGHBOURS) : index + _NEIGHBOURS]
        return next(iter(get_close_matches(asset, neighbours, n=1)), None)

    async def aclose(self) -> None:
        """Cancel what is being read."""
        for task in list(self._tasks.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self, tenant: str) -> None:
        async def work(connection: Connection) -> dict[str, str]:
            cursor = await connection.execute(_QUERY, [tenant, _MAX_OF_TENANT], prepare=True)
            return {str(asset): str(zone) for asset, zone in await cursor.fetchall()}

        ttl, zones = _RETRY_S, self.zones(tenant)
        try:
            async with self._database.slot(tenant):
                zones = await self._database.run(tenant, work)
            ttl = _TTL_S
        except UnavailableError:
            pass
        except psycopg.Error:
            _log.exception("assets.read_failed")
        self._drop(tenant)
        self._tenants[tenant] = _TenantAssets(time.monotonic() + ttl, zones, sorted(zones))
        self._kept[tenant] = None
        self._count += len(zones)
        while (self._count > _CAPACITY or len(self._kept) > _MAX_TENANTS) and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))
        if len(self._tenants) > _MAX_TENANTS:
            now = time.monotonic()
            self._tenants = {
                name: each for name, each in self._tenants.items() if name in self._kept or each.until > now
            }

    def _drop(self, tenant: str) -> None:
        """Make room. Its assets are not read again for a minute, or many tenants would take turns."""
        if tenant in self._kept:
            known = self._tenants[tenant]
            del self._kept[tenant]
            self._count -= len(known.names)
            self._tenants[tenant] = _TenantAssets(min(known.until, time.monotonic() + _DROPPED_S))

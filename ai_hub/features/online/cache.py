"""Redis for requests: short time limits on reads, and rows written back after the answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from redis.exceptions import RedisError, ResponseError

from ai_hub.features import followed
from ai_hub.features.online import metrics
from ai_hub.features.online.breaker import UnavailableError, open_breaker
from feast_plugins.online.connection import Connections
from feast_plugins.online.writing import (
    computed_at,
    get_marks,
    is_written,
    joined,
    mark,
    times_of,
    write_back,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from feast import RepoConfig

    from ai_hub.features.online.as_of import Moment
    from ai_hub.features.online.breaker import Breaker
    from ai_hub.features.online.catalog import Catalog
    from ai_hub.features.online.loader import Found, Row
    from ai_hub.features.online.query import View
    from ai_hub.settings import ServiceSettings
    from feast_plugins.online.connection import ConnectionConfig
    from feast_plugins.online.exchange import Commands

_log = structlog.get_logger(__name__)
SERVER = "redis"
#: Rows that wait to be written at most; more are left out, and the next miss tries again.
_MOST_PENDING = 10_000
#: Commands of one exchange, so that it ends within the time limit of a read.
_TOGETHER = 200
#: Exchanges that write at once: reads go before.
_MOST_WRITING = 4
#: Values of marks.
KNOWN, UNKNOWN = b"known", b"unknown"


class Cache:
    """The online store, with time limits and connections of a service."""

    def __init__(self, options: ServiceSettings, breaker: Breaker, mark_s: int) -> None:
        self._options = options
        self._breaker = breaker
        self._mark_s = mark_s
        self._connections = Connections()
        self._config: RepoConfig | None = None
        self._online: ConnectionConfig | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._writing = asyncio.Semaphore(_MOST_WRITING)

    async def ask(self, config: RepoConfig, commands: Commands) -> list[Any]:
        """Replies to the commands.

        Raises:
            UnavailableError: the server does not answer in time, or is left alone.
        """
        try:
            async with self._breaker.asked():
                return await self._connections.exchange_async(self._options_of(config), commands)
        except (RedisError, OSError) as error:
            reason = "timeout" if "Timeout" in type(error).__name__ else "down"
            _log.warning("redis", reason=reason, error=str(error))
            raise UnavailableError(SERVER, reason) from error

    async def marks(self, config: RepoConfig, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is noted of rows that were looked for in vain a moment ago; see `mark_key`."""
        return await self.ask(config, get_marks(keys))

    def put_back(
        self, config: RepoConfig, view: View, rows: Sequence[tuple[bytes, Row, bytes | None]], computed: int
    ) -> None:
        """Write rows (key, row, the time that was read there) that were computed at that time (ns)."""
        self._start(
            config,
            [
                write_back(config, view.stored, key, _put_back_fields(view, row, computed), read)
                for key, row, read in rows
            ],
            are_rows=True,
        )

    def mark(self, config: RepoConfig, noted: Sequence[tuple[bytes, bytes]]) -> None:
        """Note (key, value) that nothing newer was found; it holds for `FEATURE_CACHE_TTL`."""
        self._start(config, [mark(key, value, self._mark_s) for key, value in noted], are_rows=False)

    async def settle(self) -> None:
        """Wait for what is being written."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Give what is being written a moment, and close the connections."""
        try:
            async with asyncio.timeout(self._options.redis_timeout_s):
                await self.settle()
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
        await self._connections.aclose()

    def _start(self, config: RepoConfig, commands: Sequence[Commands], *, are_rows: bool) -> None:
        if not commands:
            return
        if self._pending + len(commands) > _MOST_PENDING:
            metrics.write_backs("dropped").inc(len(commands))
            return
        self._pending += len(commands)
        task = asyncio.create_task(self._write(config, commands, are_rows=are_rows), name="write-back")
        self._tasks.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._pending -= len(commands)

        task.add_done_callback(ended)

    async def _write(self, config: RepoConfig, commands: Sequence[Commands], *, are_rows: bool) -> None:
        for first in range(0, len(commands), _TOGETHER):
            some = commands[first : first + _TOGETHER]
            try:
                async with self._writing:
                    replies = await self.ask(config, joined(some))
            except UnavailableError:
                metrics.write_backs("failed").inc(len(commands) - first)
                return
            if are_rows:
                written = sum(map(is_written, replies))
                metrics.write_backs("written").inc(written)
                metrics.write_backs("refused").inc(len(some) - written)

    def _options_of(self, config: RepoConfig) -> ConnectionConfig:
        if self._config is not config or self._online is None:
            limit = self._options.redis_timeout_s
            self._config = config
            self._online = config.online_store.model_copy(
                update={
                    "timeout_seconds": limit,
                    "connect_timeout_seconds": limit,
                    "retries": 0,  # TimescaleDB is the second try
                    "max_connections": self._options.max_in_flight + _MOST_WRITING,
                }
            )
        return self._online


def _put_back_fields(view: View, row: Row, computed: int) -> dict[bytes, bytes]:
    field = view.stored.stamp_field
    return row.fields | {field: computed_at(row.fields[field], computed)}


def mark_key(config: RepoConfig, view: View, tenant: str, asset: str) -> bytes:
    """Key of the note about an asset's row."""
    return followed.mark_key(config.project, view.name, tenant, asset)


@asynccontextmanager
async def open_cache(options: ServiceSettings, mark_s: int) -> AsyncIterator[Cache]:
    """A cache that connects when it is first asked."""
    # a server that is full refuses writes, and still answers reads
    breaker = await open_breaker(
        SERVER, options.breaker_failures, options.breaker_pause_s, harmless=[ResponseError]
    )
    cache = Cache(options, breaker, mark_s)
    try:
        yield cache
    finally:
        await cache.aclose()


class Place(NamedTuple):
    """Where a row belongs in Redis: the key of its hash, and the time that was read there."""

    key: bytes
    stamp: bytes | None
    #: what is there lacks a feature
    is_partial: bool = False


class PutBack:
    """Puts rows back, and marks what was looked for in vain."""

    def __init__(self, catalog: Catalog, cache: Cache) -> None:
        self._catalog = catalog
        self._cache = cache

    def __call__(
        self,
        view: View,
        tenant: str,
        moment: Moment,
        found: Mapping[str, Found],
        places: Mapping[str, Place],
    ) -> None:
        """Begin to write what was found for `moment`, of those assets that have a place."""
        config = self._catalog.config
        rows: list[tuple[bytes, Row, bytes | None]] = []
        marks: list[tuple[bytes, bytes]] = []
        for asset, place in places.items():
            row, is_known = found[asset].row, found[asset].is_known
            computed = None
            if row is not None and (place.is_partial or _belongs(row, place.stamp)):
                rows.append((place.key, row, place.stamp))
                computed = moment.now
            if not moment.is_given and (row is None or not view.is_current(moment, row.nanos, computed)):
                marks.append((mark_key(config, view, tenant, asset), KNOWN if is_known else UNKNOWN))
        self._cache.put_back(config, view, rows, moment.now)
        self._cache.mark(config, marks)


def _belongs(row: Row, stamp: bytes | None) -> bool:
    """Whether a row is newer than the one that was read, or computed later."""
    if stamp is None:
        return True
    stored = times_of(stamp)
    # what was materialized may be a correction that came after this computation
    return row.nanos > stored.event or (row.nanos == stored.event and stored.computed is not None)

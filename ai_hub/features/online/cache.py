"""Redis for requests: reads with short timeouts, and rows written back after the answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError, ResponseError

from ai_hub.concurrency import Breaker, UnavailableError
from ai_hub.features import store
from feast_plugins.online.connection import Connections
from feast_plugins.online.writing import (
    computed_at,
    get_values,
    is_written,
    joined,
    set_value,
    times_of,
    write_back,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from feast import RepoConfig

    from ai_hub.features.online.catalog import Catalog
    from ai_hub.features.online.loader import Row, RowLookup
    from ai_hub.features.online.query import AsOf, View
    from ai_hub.settings import ServiceSettings
    from feast_plugins.online.connection import Commands

_log = structlog.get_logger(__name__)
_WRITE_BACKS = Counter("ai_hub_feature_write_backs", "Rows written back to Redis, by result", ["result"])
SERVER = "redis"
#: Writes that may be pending; more are dropped, and the next miss tries again.
_MAX_PENDING = 10_000
#: Writes in one exchange, so that it ends within the timeout of a read.
_BATCH_SIZE = 200
#: Exchanges that write at once, so that reads go first.
_MAX_WRITERS = 4
#: Values of negative-cache entries: the asset has no newer row, or there is no such asset.
NO_NEWER_ROW, NO_SUCH_ASSET = b"known", b"unknown"


class CacheKey(NamedTuple):
    """Where a row is written back to."""

    #: of the hash in Redis
    key: bytes
    #: time of the row that was read there; None: there was none
    stamp: bytes | None
    #: all fields that were read, if the row lacks a feature
    partial: Mapping[bytes, bytes | None] | None = None


class Cache:
    """The online store, with the service's timeouts and connections."""

    def __init__(self, options: ServiceSettings, breaker: Breaker, negative_ttl_s: int) -> None:
        self._options = options
        self._breaker = breaker
        self._negative_ttl_s = negative_ttl_s
        self._connections = Connections()
        self._config: RepoConfig | None = None
        self._exchange: Callable[[Commands], Awaitable[list[Any]]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._writers = asyncio.Semaphore(_MAX_WRITERS)

    async def send(self, config: RepoConfig, commands: Commands) -> list[Any]:
        """Replies to the commands.

        Raises:
            UnavailableError: Redis does not answer in time, or its breaker is open.
        """
        try:
            with self._breaker:
                if config is not self._config or self._exchange is None:
                    self._exchange = self._connect(config)
                return await self._exchange(commands)
        except (RedisError, OSError) as error:
            reason = "timeout" if "Timeout" in type(error).__name__ else "down"
            _log.warning("redis.exchange_failed", reason=reason, error=str(error))
            raise UnavailableError(SERVER, reason) from error

    async def values(self, config: RepoConfig, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of plain keys, such as negative-cache entries."""
        return await self.send(config, get_values(keys))

    def write_back(
        self, config: RepoConfig, view: View, rows: Sequence[tuple[CacheKey, Row]], computed: int
    ) -> None:
        """Begin to write rows that were computed at `computed` (ns).

        Each is given with what was read there: it is written unless that has changed.
        """
        stamp_field = view.stored.stamp_field
        self._start(
            config,
            [
                write_back(
                    config,
                    view.stored,
                    key.key,
                    _with_computed_at(view, row, computed),
                    key.partial or {stamp_field: key.stamp},
                )
                for key, row in rows
            ],
            are_rows=True,
        )

    def add_negative_entries(self, config: RepoConfig, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin to write (key, value) of negative-cache entries; they hold for `FEATURE_CACHE_TTL`."""
        self._start(
            config, [set_value(key, value, self._negative_ttl_s) for key, value in entries], are_rows=False
        )

    async def settle(self) -> None:
        """Wait for what is being written."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Wait for what is being written, no longer than a read's timeout, and close the connections."""
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
        if self._pending + len(commands) > _MAX_PENDING:
            _write_backs("dropped").inc(len(commands))
            return
        self._pending += len(commands)
        task = asyncio.create_task(self._write(config, commands, are_rows=are_rows), name="write-back")
        self._tasks.add(task)

        def on_done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._pending -= len(commands)

        task.add_done_callback(on_done)

    async def _write(self, config: RepoConfig, commands: Sequence[Commands], *, are_rows: bool) -> None:
        for start in range(0, len(commands), _BATCH_SIZE):
            batch = commands[start : start + _BATCH_SIZE]
            try:
                async with self._writers:
                    replies = await self.send(config, joined(batch))
            except UnavailableError:
                _write_backs("failed").inc(len(commands) - start)
                return
            if are_rows:
                written = sum(map(is_written, replies))
                _write_backs("written").inc(written)
                _write_backs("refused").inc(len(batch) - written)

    def _connect(self, config: RepoConfig) -> Callable[[Commands], Awaitable[list[Any]]]:
        timeout = self._options.redis_timeout_s
        self._config = config
        online = config.online_store.model_copy(
            update={
                "timeout_seconds": timeout,
                "connect_timeout_seconds": timeout,
                "retries": 0,  # TimescaleDB is the second try
                "max_connections": self._options.max_in_flight + _MAX_WRITERS,
            }
        )
        return self._connections.of_running_loop(online)


class WriteBack:
    """Writes loaded rows back to Redis, and negative-cache entries where there was nothing newer."""

    def __init__(self, catalog: Catalog, cache: Cache) -> None:
        self._catalog = catalog
        self._cache = cache

    def __call__(
        self,
        view: View,
        tenant: str,
        as_of: AsOf,
        lookups: Mapping[str, RowLookup],
        keys: Mapping[str, CacheKey],
    ) -> None:
        """Begin to write what was loaded as of `as_of`, of the assets in `keys`."""
        config = self._catalog.config
        rows: list[tuple[CacheKey, Row]] = []
        entries: list[tuple[bytes, bytes]] = []
        for asset, key in keys.items():
            row, asset_exists = lookups[asset].row, lookups[asset].asset_exists
            computed = None
            if row is not None and (key.partial or _supersedes(row, key.stamp)):
                rows.append((key, row))
                computed = as_of.now
            if not as_of.is_past and (row is None or not view.is_current(as_of, row.nanos, computed)):
                value = NO_NEWER_ROW if asset_exists else NO_SUCH_ASSET
                entries.append((negative_key(config, view, tenant, asset), value))
        self._cache.write_back(config, view, rows, as_of.now)
        self._cache.add_negative_entries(config, entries)


@lru_cache(maxsize=8)
def _write_backs(result: str) -> Counter:
    """Write-backs: written, refused (somebody wrote first), failed, or dropped (too many pending)."""
    return _WRITE_BACKS.labels(result)


def negative_key(config: RepoConfig, view: View, tenant: str, asset: str) -> bytes:
    """Key of the negative-cache entry of an asset's row."""
    return store.negative_key(config.project, view.name, tenant, asset)


def _supersedes(row: Row, stamp: bytes | None) -> bool:
    """Whether a row is newer than the one that was read, or computed later."""
    if stamp is None:
        return True
    stored = times_of(stamp)
    # what was materialized may be a correction that came after this computation
    return row.nanos > stored.event or (row.nanos == stored.event and stored.computed is not None)


def _with_computed_at(view: View, row: Row, computed: int) -> dict[bytes, bytes]:
    field = view.stored.stamp_field
    return row.fields | {field: computed_at(row.fields[field], computed)}


@asynccontextmanager
async def open_cache(options: ServiceSettings, negative_ttl_s: int) -> AsyncIterator[Cache]:
    """A cache that connects when it is first used."""
    # a server that is full refuses writes, and still answers reads
    breaker = Breaker(SERVER, options.breaker_failures, options.breaker_pause_s, harmless=(ResponseError,))
    cache = Cache(options, breaker, negative_ttl_s)
    try:
        yield cache
    finally:
        await cache.aclose()

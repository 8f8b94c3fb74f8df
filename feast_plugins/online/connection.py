"""Connections to Redis that threads, forks and event loops can share a store with."""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence  # noqa: TC003  # fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from weakref import WeakKeyDictionary

from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from redis import Redis, RedisCluster, Sentinel
from redis import asyncio as redis_asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from feast_plugins.online.address import Address
from feast_plugins.online.exchange import (
    Idle,
    Pipeline,
    exchange,
    exchange_in_cluster,
    exchange_in_cluster_async,
    use_bulk_connections,
)

if TYPE_CHECKING:
    from feast_plugins.online.exchange import Commands

    Client = Redis | RedisCluster
    AsyncClient = redis_asyncio.Redis | redis_asyncio.RedisCluster


class ConnectionConfig(RedisOnlineStoreConfig):
    """Options of the stock Redis store, and how long to wait for a server.

    `connection_string` may be a URL (see `address`), which then says what kind of servers there are: options
    `redis_type` and `sentinel_master` go with Feast's own notation. What it says goes first:
    `max_connections`, `socket_timeout`, `socket_connect_timeout`.
    """

    max_connections: PositiveInt = 64
    """Connections that the threads of a process keep to one server; more requests at once fail."""

    timeout_seconds: PositiveFloat = 5.0
    """How long one answer of the server may take."""

    connect_timeout_seconds: PositiveFloat = 2.0
    """How long connecting may take."""

    retries: NonNegativeInt = 3
    """How often a request is sent again if the server cannot be reached or does not answer in time."""

    retry_wait_seconds: PositiveFloat = 0.05
    """The first wait before that; each further one is twice as long on average."""

    retry_wait_limit_seconds: NonNegativeFloat = 1.0
    """The longest such wait."""

    # errors would repeat the password
    model_config = ConfigDict(hide_input_in_errors=True)

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        try:
            _address(self)
        except ValueError as error:
            raise ValueError(f"connection_string is no address of Redis: {error}") from error
        return self


class _OfThreads(NamedTuple):
    client: Client
    idle: Idle | None
    #: clients of sentinels, which are closed with it
    sentinels: Sequence[Redis] = ()


class _OfLoop(NamedTuple):
    client: AsyncClient
    exchange: Callable[[Commands], Awaitable[list[Any]]]
    #: closed with the client
    pipeline: Pipeline | None = None
    sentinels: Sequence[redis_asyncio.Redis] = ()


class Connections:
    """Clients of one store, made when they are first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: _OfThreads | None = None
        # a connection belongs to the loop it was opened in
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()

    def client(self, config: ConnectionConfig) -> Client:
        """The client for threads; connections of a process are never used by one that it forked."""
        return self._of_threads(config).client

    def async_client(self, config: ConnectionConfig) -> AsyncClient:
        """The client of the running event loop."""
        return self._of_loop(config).client

    def exchange(self, config: ConnectionConfig, commands: Commands) -> list[Any]:
        """Replies to the commands, in their order; see `exchange`."""
        client, idle, _ = self._of_threads(config)
        if not commands.replies:
            return []
        if isinstance(client, RedisCluster):
            return exchange_in_cluster(client, commands)
        return exchange(client, idle, commands)

    async def exchange_async(self, config: ConnectionConfig, commands: Commands) -> list[Any]:
        """As `exchange`."""
        of_loop = self._of_loop(config)
        return await of_loop.exchange(commands) if commands.replies else []

    def close(self) -> None:
        """Close the connections for threads."""
        with self._lock:
            if (found := self._threads) is not None:
                for client in (found.client, *found.sentinels):
                    client.close()
            self._threads = None

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if (found := self._loops.pop(asyncio.get_running_loop(), None)) is not None:
            if found.pipeline is not None:
                found.pipeline.close()
            for client in (found.client, *found.sentinels):
                await client.aclose()

    def _of_threads(self, config: ConnectionConfig) -> _OfThreads:
        if (found := self._threads) is None:
            with self._lock:
                if (found := self._threads) is None:
                    found = self._threads = _connect(config)
        return found

    def _of_loop(self, config: ConnectionConfig) -> _OfLoop:
        loop = asyncio.get_running_loop()
        if (found := self._loops.get(loop)) is None:
            found = self._loops[loop] = _connect_loop(config)
        return found


def _address(config: ConnectionConfig) -> Address:
    """What the configuration names, as a URL or in Feast's own notation."""
    if "://" in config.connection_string:
        return Address.of(config.connection_string)
    nodes, options = RedisOnlineStore._parse_connection_string(config.connection_string)  # noqa: SLF001  # its format
    return Address(
        [(node["host"], int(node["port"])) for node in nodes],
        options,
        config.redis_type == RedisType.redis_cluster,
        config.sentinel_master if config.redis_type == RedisType.redis_sentinel else None,
    )


def _options(config: ConnectionConfig, address: Address) -> dict[str, Any]:
    ours = {
        "max_connections": config.max_connections,
        "socket_timeout": config.timeout_seconds,
        "socket_connect_timeout": config.connect_timeout_seconds,
    }
    return ours | dict(address.options)


def _backoff(config: ConnectionConfig) -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(cap=config.retry_wait_limit_seconds, base=config.retry_wait_seconds)


def _connect(config: ConnectionConfig) -> _OfThreads:
    address = _address(config)
    options = _options(config, address) | {"retry": Retry(_backoff(config), config.retries)}
    if address.master is not None:
        sentinel = address.sentinel(Sentinel, options)
        client = sentinel.master_for(address.master)
        use_bulk_connections(client)
        # its pool is to know of each connection: it drops those to a server that is the master no more
        return _OfThreads(client, None, sentinel.sentinels)
    client = address.client(**options)
    if isinstance(client, RedisCluster):
        return _OfThreads(client, None)
    use_bulk_connections(client)
    return _OfThreads(client, Idle())


def _connect_loop(config: ConnectionConfig) -> _OfLoop:
    address = _address(config)
    options = _options(config, address) | {"retry": AsyncRetry(_backoff(config), config.retries)}
    if address.is_cluster:
        nodes = [redis_asyncio.cluster.ClusterNode(host, port) for host, port in address.nodes]
        client = redis_asyncio.RedisCluster(startup_nodes=nodes, **options)
        return _OfLoop(client, partial(exchange_in_cluster_async, client))
    if address.master is not None:
        sentinel = address.sentinel(redis_asyncio.Sentinel, options)
        master = sentinel.master_for(address.master)
        pipeline = Pipeline(master)
        return _OfLoop(master, pipeline.exchange, pipeline, sentinel.sentinels)
    ((host, port), *_) = address.nodes
    server = redis_asyncio.Redis(host=host, port=port, **options)
    pipeline = Pipeline(server)
    return _OfLoop(server, pipeline.exchange, pipeline)

"""Connections to Redis that threads, forks and event loops can share a store with.

redis-py opens them, with logins, TLS and sentinels. Reading replies one by one, as it does, takes longer than
parsing them, so commands are sent in one go and replies read in one go. A thread uses a connection again only
after every reply was read. The requests of an event loop share a connection, whose replies come in the order
of the commands. No reply is ever taken for the answer to another request, which may be another tenant's.
"""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence  # noqa: TC003  # fields
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import hiredis
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
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _HiredisParser
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from feast_plugins.online.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio.connection import Connection as AsyncConnection

    Client = Redis | RedisCluster
    AsyncClient = redis_asyncio.Redis | redis_asyncio.RedisCluster


_UNUSABLE = (RedisConnectionError, ReadOnlyError)


class _Parser(_HiredisParser):
    def read_responses(self, count: int) -> list[Any]:
        found: list[Any] = []
        gets = self._reader.gets
        while len(found) < count:
            if (reply := gets()) is NOT_ENOUGH_DATA:
                self.read_from_socket()
            else:
                found.append(reply)
        return found


class BulkConnection(Connection):
    """A connection for threads; also a part of those with TLS and those that a sentinel manages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"parser_class": _Parser}))

    def ask(self, payload: bytes, count: int) -> list[Any]:
        """Send packed commands and read all replies; that to a refused one is its error.

        Raises:
            RedisError: the server cannot be reached, or does not answer in time. The connection is closed.
        """
        try:
            if self._sock is None:
                self.connect()  # a sentinel is asked anew who the master is
            self.send_packed_command([payload])
            return _open_reply(self._parser.read_responses(count))
        except OSError as error:
            self.disconnect()
            raise RedisConnectionError(
                f"Error while reading from {self.host}:{self.port}: {error}"
            ) from error
        except BaseException:
            self.disconnect()
            raise


def use_bulk_connections(client: Redis) -> None:
    """Make the client's pool open connections of its own kind that are `BulkConnection`, too."""
    part, kind = BulkConnection, client.connection_pool.connection_class
    made = part if issubclass(part, kind) else type(f"Bulk{kind.__name__}", (part, kind), {})
    client.connection_pool.connection_class = made


def _open_reply(replies: list[Any]) -> list[Any]:
    """Some errors are the server's: it is loading its data, or is the master no more."""
    if set(map(type, replies)) != {list}:
        for reply in replies:
            if isinstance(reply, _UNUSABLE):
                raise RedisConnectionError(str(reply)) from reply
    return replies


_KEPT = 8


class Commands(NamedTuple):
    """Commands in the protocol of Redis, each with one key, which may be sent twice."""

    payload: bytes
    #: how many there are to come
    replies: int

    @classmethod
    def of(cls, commands: Sequence[bytes]) -> Self:
        """Several commands, packed."""
        return cls(b"".join(commands), len(commands))


class Idle:
    """Connections at hand, outside of their pool, whose checks take as long as reading a row.

    What they check for is found out by using the connection.
    """

    def __init__(self) -> None:
        self._connections: deque[BulkConnection] = deque()
        self._process = os.getpid()

    def take(self) -> BulkConnection | None:
        """The one used last, if there is any."""
        if os.getpid() != self._process:  # the process that this one was forked from uses them
            self._connections, self._process = deque(), os.getpid()
        try:
            return self._connections.pop()
        except IndexError:
            return None

    def keep(self, connection: BulkConnection) -> bool:
        """Whether it is kept; or else its pool must have it."""
        if len(self._connections) >= _KEPT:
            return False
        self._connections.append(connection)
        return True


def exchange(client: Redis, idle: Idle | None, commands: Commands) -> list[Any]:
    """Replies to the commands, in their order.

    Raises:
        RedisError: a command was refused (after all replies were read), or the server does not answer.
    """
    pool = client.connection_pool
    if idle is not None and (connection := idle.take()) is not None:
        kept = False
        try:
            replies = connection.ask(*commands)
            kept = idle.keep(connection)
        except RedisConnectionError:
            pass  # it was closed meanwhile, which is no failure yet
        except RedisTimeoutError:
            if not connection.retry.get_retries():
                raise
        else:
            return _checked(replies)
        finally:
            if not kept:
                pool.release(connection)
    fresh: Any = pool.get_connection()
    kept = False
    try:
        replies = fresh.retry.call_with_retry(lambda: fresh.ask(*commands), lambda _: fresh.disconnect())
        kept = idle is not None and idle.keep(fresh)
    finally:
        if not kept:
            pool.release(fresh)
    return _checked(replies)


class _Request(NamedTuple):
    """Commands that were sent and whose replies are still to come."""

    future: asyncio.Future[list[Any]]
    replies: int
    #: by the clock of the event loop
    deadline: float


class PipelinedConnection(asyncio.Protocol):
    """A connection that any number of requests use at once; its replies come in the order of the commands.

    Those to a request that was cancelled are dropped. Where one is late the connection is closed.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        """Take over a connection that redis-py has opened."""
        self._loop = asyncio.get_running_loop()
        self._where = connection._host_error()  # noqa: SLF001  # as its own errors say
        self._timeout_s = connection.socket_timeout or math.inf
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,  # noqa: SLF001  # its classes of errors
            notEnoughData=NOT_ENOUGH_DATA,
        )
        # kept: a writer that is deleted closes its transport, and a connection with one warns
        writer: Any = connection._writer  # noqa: SLF001
        self._writer = writer
        self._transport: asyncio.Transport = writer.transport
        connection._writer = connection._reader = None  # noqa: SLF001
        self._requests: deque[_Request] = deque()
        self._unsent: list[bytes] = []
        self._replies: list[Any] = []
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True
        self._transport.set_protocol(self)

    def send(self, payload: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send packed commands; the result are the replies, where that to a refused command is its error.

        What is sent in one pass of the event loop leaves together. The result is an error of redis-py where
        the server cannot be reached or does not answer in time.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._requests.append(_Request(future, count, self._loop.time() + self._timeout_s))
        if self._timer is None and self._timeout_s < math.inf:
            self._timer = self._loop.call_later(self._timeout_s, self._check_deadline)
        if not self.is_open:
            self.close()
        elif self._unsent:
            self._unsent.append(payload)
        else:
            self._unsent.append(payload)
            self._loop.call_soon(self._flush)
        return future

    def data_received(self, data: bytes) -> None:
        """Hand replies to the requests they are for."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not NOT_ENOUGH_DATA:
                self._replies.append(reply)
                if len(self._replies) == self._requests[0].replies:
                    self._complete(self._requests.popleft().future)
        except (RedisError, IndexError) as error:  # no reply of Redis, one that nobody waits for, or unusable
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the requests whose replies will not come."""
        self._fail(exc or RedisConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Close it; requests under way end in an error."""
        self._fail(RedisConnectionError("the connection was closed"))

    def _flush(self) -> None:
        payload = b"".join(self._unsent)
        self._unsent.clear()
        if self.is_open:
            try:
                self._transport.write(payload)
            except RuntimeError as error:  # of uvloop, where the other side has reset the connection
                self._fail(error)

    def _complete(self, future: asyncio.Future[list[Any]]) -> None:
        replies, self._replies = self._replies, []
        try:
            _open_reply(replies)
        except RedisConnectionError as error:
            if not future.done():
                future.set_exception(error)
            raise
        if not future.done():
            future.set_result(replies)

    def _check_deadline(self) -> None:
        """Close the connection if the oldest request has waited too long; one timer serves all requests."""
        self._timer = None
        if not self._requests:
            return
        oldest, *_ = self._requests
        if (left_s := oldest.deadline - self._loop.time()) > 0:
            self._timer = self._loop.call_later(left_s, self._check_deadline)
            return
        error = RedisTimeoutError(f"Timeout reading from {self._where}")
        if not oldest.future.done():
            oldest.future.set_exception(error)
        self._fail(error)

    def _fail(self, reason: BaseException) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        while self._requests:
            future = self._requests.popleft().future
            if not future.done():
                error = RedisConnectionError(f"Error while reading from {self._where}: {reason}")
                error.__cause__ = reason
                future.set_exception(error)


class Pipeline:
    """The connection of an event loop to a server, opened when it is needed and again when it was lost."""

    def __init__(self, client: redis_asyncio.Redis) -> None:
        self._pool = client.connection_pool
        self._retry: Any = client.get_retry()
        self._timeout_s: float | None = self._pool.connection_kwargs["socket_timeout"]
        self._connection: PipelinedConnection | None = None
        self._opening: asyncio.Task[PipelinedConnection] | None = None

    async def exchange(self, commands: Commands) -> list[Any]:
        """As `exchange`."""
        connection, left_s = self._connection, self._timeout_s
        if connection is not None and connection.is_open:
            loop = asyncio.get_running_loop()
            sent = loop.time()
            try:
                return _checked(await connection.send(*commands))
            except RedisConnectionError:
                # it was closed meanwhile, which is no failure yet: there is what is left of the time
                if left_s is not None:
                    left_s -= loop.time() - sent
            except RedisTimeoutError:
                if not self._retry.get_retries():
                    raise
        timeouts: Iterator[float | None] = chain([left_s], repeat(self._timeout_s))
        return _checked(
            await self._retry.call_with_retry(lambda: self._ask(commands, next(timeouts)), _ignore)
        )

    def close(self) -> None:
        """Close the connection; it can be opened again."""
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _ask(self, commands: Commands, timeout_s: float | None) -> list[Any]:
        """The replies, from a new connection if there is none; the time-out is for both together."""
        connection = self._connection
        try:
            async with asyncio.timeout(timeout_s):
                if connection is None or not connection.is_open:
                    if self._opening is None:
                        self._opening = asyncio.create_task(self._open())
                        self._opening.add_done_callback(self._on_opened)
                    # others wait for it, too
                    connection = await asyncio.shield(self._opening)
                return await connection.send(*commands)
        except TimeoutError as error:
            raise RedisTimeoutError(f"Timeout connecting to {self._pool}") from error

    async def _open(self) -> PipelinedConnection:
        connection = self._pool.make_connection()  # a sentinel is asked anew who the master is
        try:
            await connection.connect()
            self._connection = PipelinedConnection(connection)
        except RuntimeError as error:  # as in `send`
            raise RedisConnectionError(f"Error connecting to {connection._host_error()}: {error}") from error  # noqa: SLF001
        finally:
            await connection.disconnect(nowait=True)  # what was not taken over
        return self._connection

    def _on_opened(self, task: asyncio.Task[PipelinedConnection]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # those who waited may be gone


async def _ignore(_: RedisError) -> None:
    """Nothing is to be done before the next try."""


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


def exchange_in_cluster(client: RedisCluster, commands: Commands) -> list[Any]:
    """Replies to the commands, in their order.

    Raises:
        RedisError: a command was refused, or a node does not answer.
    """
    with client.pipeline() as pipe:
        for arguments in _unpacked(commands):
            pipe.execute_command(*arguments)
        return list(pipe.execute())


async def exchange_in_cluster_async(client: redis_asyncio.RedisCluster, commands: Commands) -> list[Any]:
    """As `exchange_in_cluster`."""
    async with client.pipeline() as pipe:
        for arguments in _unpacked(commands):
            pipe.execute_command(*arguments)
        return list(await pipe.execute())


def _unpacked(commands: Commands) -> Iterator[list[Any]]:
    """Name and arguments of each: a packed command is a list of strings in the protocol of Redis."""
    reader = hiredis.Reader()
    reader.feed(commands.payload)
    for _ in range(commands.replies):
        name, *arguments = reader.gets()
        yield [name.decode(), *arguments]


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
        return await self.of_running_loop(config)(commands) if commands.replies else []

    def of_running_loop(self, config: ConnectionConfig) -> Callable[[Commands], Awaitable[list[Any]]]:
        """`exchange_async` of the running event loop, for one command or more."""
        return self._of_loop(config).exchange

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

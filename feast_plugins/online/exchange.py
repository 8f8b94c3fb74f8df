"""Commands sent in one go, replies read in one go.

redis-py opens the connections, with logins, TLS and sentinels; reading replies one by one, as it does, takes
longer than parsing them. A thread uses a connection again only after every reply was read. The requests of an
event loop share one connection, and its replies come in the order of the commands. No reply is ever taken for
the answer to another request, which may be another tenant's.
"""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _HiredisParser
from redis.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis
    from redis import asyncio as redis_asyncio
    from redis.asyncio.connection import Connection as AsyncConnection
    from redis.cluster import RedisCluster


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
        self._replies: list[Any] = []
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True
        self._transport.set_protocol(self)

    def send(self, payload: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send packed commands; the result are the replies, where that to a refused command is its error.

        The result is an error of redis-py where the server cannot be reached or does not answer in time.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._requests.append(_Request(future, count, self._loop.time() + self._timeout_s))
        if self._timer is None and self._timeout_s < math.inf:
            self._timer = self._loop.call_later(self._timeout_s, self._check_deadline)
        if not self.is_open:
            self.close()
        try:
            self._transport.write(payload)
        except RuntimeError as error:  # of uvloop, where the other side has reset the connection
            self._fail(error)
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
        self._connection: PipelinedConnection | None = None
        self._opening: asyncio.Task[PipelinedConnection] | None = None

    async def exchange(self, commands: Commands) -> list[Any]:
        """As `exchange`."""
        connection = self._connection
        if connection is not None and connection.is_open:
            try:
                return _checked(await connection.send(*commands))
            except RedisConnectionError:
                pass  # it was closed meanwhile, which is no failure yet
            except RedisTimeoutError:
                if not self._retry.get_retries():
                    raise
        return _checked(await self._retry.call_with_retry(lambda: self._ask(commands), _ignore))

    def close(self) -> None:
        """Close the connection; it can be opened again."""
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _ask(self, commands: Commands) -> list[Any]:
        """The replies, from a new connection if there is none; the time-out is for both together."""
        connection, timeout_s = self._connection, self._pool.connection_kwargs["socket_timeout"]
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

"""Commands sent in one go, replies read in one go.

Reading replies one by one takes longer than parsing them, so connections of redis-py read many at once. A
connection is used again only after every reply was read: one that was left in it would be taken for the
answer to the next request, which may be another tenant's.
"""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser, _HiredisParser
from redis.asyncio.connection import Connection as AsyncConnection
from redis.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis
    from redis import asyncio as redis_asyncio
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


class _AsyncParser(_AsyncHiredisParser):
    async def read_responses(self, count: int) -> list[Any]:
        found: list[Any] = []
        gets = self._reader.gets  # type: ignore[attr-defined]  # a connected one has it
        while len(found) < count:
            if (reply := gets()) is NOT_ENOUGH_DATA:
                await self.read_from_socket()
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


class AsyncBulkConnection(AsyncConnection):
    """A connection for an event loop; its time-out is for all replies together."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"parser_class": _AsyncParser}))

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As redis-py's, whose error it raises where uvloop finds the connection reset."""
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to {self.host}:{self.port}: {error}") from error

    async def ask(self, payload: bytes, count: int) -> list[Any]:
        """As `BulkConnection.ask`."""
        try:
            async with asyncio.timeout(self.socket_timeout):
                if not self.is_connected:
                    await self.connect()
                await super().send_packed_command(payload)
                return _open_reply(await self._parser.read_responses(count))  # type: ignore[attr-defined]  # ours
        except TimeoutError as error:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError(f"Timeout reading from {self.host}:{self.port}") from error
        except (OSError, RuntimeError) as error:
            # uvloop raises the latter when the other side has reset the connection
            await self.disconnect(nowait=True)
            raise RedisConnectionError(
                f"Error while reading from {self.host}:{self.port}: {error}"
            ) from error
        except BaseException:
            await self.disconnect(nowait=True)
            raise


def use_bulk_connections(client: Redis | redis_asyncio.Redis, part: type) -> None:
    """Make the client's pool open connections of its own kind that are `part`, too."""
    kind = client.connection_pool.connection_class
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

_C = TypeVar("_C")


class Commands(NamedTuple):
    """Commands in the protocol of Redis, each with one key, which may be sent twice."""

    payload: bytes
    #: how many there are to come
    replies: int

    @classmethod
    def of(cls, commands: Sequence[bytes]) -> Self:
        """Several commands, packed."""
        return cls(b"".join(commands), len(commands))


class Idle(Generic[_C]):
    """Connections at hand, outside of their pool, whose checks take as long as reading a row.

    What they check for is found out by using the connection.
    """

    def __init__(self) -> None:
        self._connections: deque[_C] = deque()
        self._process = os.getpid()

    def take(self) -> _C | None:
        """The one used last, if there is any."""
        if os.getpid() != self._process:  # the process that this one was forked from uses them
            self._connections, self._process = deque(), os.getpid()
        try:
            return self._connections.pop()
        except IndexError:
            return None

    def keep(self, connection: _C) -> bool:
        """Whether it is kept; or else its pool must have it."""
        if len(self._connections) >= _KEPT:
            return False
        self._connections.append(connection)
        return True


def exchange(client: Redis, idle: Idle[BulkConnection] | None, commands: Commands) -> list[Any]:
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


async def exchange_async(
    client: redis_asyncio.Redis,
    idle: Idle[AsyncBulkConnection] | None,
    commands: Commands,
) -> list[Any]:
    """As `exchange`."""
    pool = client.connection_pool
    if idle is not None and (connection := idle.take()) is not None:
        kept = False
        try:
            replies = await connection.ask(*commands)
            kept = idle.keep(connection)
        except RedisConnectionError:
            pass
        except RedisTimeoutError:
            if not connection.retry.get_retries():
                raise
        else:
            return _checked(replies)
        finally:
            if not kept:
                await pool.release(connection)
    fresh: Any = await pool.get_connection()
    kept = False
    try:
        replies = await fresh.retry.call_with_retry(
            lambda: fresh.ask(*commands), lambda _: fresh.disconnect(nowait=True)
        )
        kept = idle is not None and idle.keep(fresh)
    finally:
        if not kept:
            await pool.release(fresh)
    return _checked(replies)


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

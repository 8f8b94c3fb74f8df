"""Commands sent in one go, replies read in one go.

A connection is used again only after every reply was read: one that was left in it would be taken for the
answer to the next request, which may be another tenant's.
"""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis
    from redis import asyncio as redis_asyncio
    from redis.asyncio.connection import AbstractConnection as AsyncConnection
    from redis.connection import Connection

_KEPT = 8
_LOST = (RedisConnectionError, RedisTimeoutError)

_C = TypeVar("_C")


class Question(Protocol):
    """Commands that may be sent twice, and who wants the replies."""

    def begin(self) -> None:
        """Forget replies: all commands are sent anew."""

    def blocks(self) -> Iterator[tuple[bytes, int]]:
        """Commands in the protocol of Redis, in blocks, with the number of replies to each."""

    def take(self, replies: list[Any]) -> None:
        """Take the replies to the next block."""


class Commands:
    """Packed commands whose replies are kept."""

    def __init__(self, commands: Sequence[bytes]) -> None:
        self._commands = commands
        self.replies: list[Any] = []

    def begin(self) -> None:
        """See `Question`."""
        self.replies = []

    def blocks(self) -> Iterator[tuple[bytes, int]]:
        """See `Question`."""
        if self._commands:
            yield b"".join(self._commands), len(self._commands)

    def take(self, replies: list[Any]) -> None:
        """See `Question`."""
        self.replies = replies


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


def exchange(client: Redis, idle: Idle[Connection] | None, question: Question) -> None:
    """Ask the server.

    Raises:
        RedisError: a command was refused (after all replies were read), or the server does not answer.
    """
    pool = client.connection_pool
    if idle is not None and (connection := idle.take()) is not None:
        kept = False
        try:
            _ask(connection, question)
            kept = idle.keep(connection)
        except _LOST:
            pass  # it was closed meanwhile, which is no failure yet
        else:
            return
        finally:
            if not kept:
                pool.release(connection)
    connection = pool.get_connection()
    kept = False
    try:
        connection.retry.call_with_retry(
            lambda: _ask(connection, question), lambda _: connection.disconnect()
        )
        kept = idle is not None and idle.keep(connection)
    finally:
        if not kept:
            pool.release(connection)


def _ask(connection: Connection, question: Question) -> None:
    refused = None
    question.begin()
    try:
        counts = []
        for payload, count in question.blocks():
            connection.send_packed_command([payload])
            counts.append(count)
        for count in counts:
            replies: list[Any] = []
            for _ in range(count):
                try:
                    replies.append(connection.read_response())
                except ResponseError as error:
                    refused = refused or error
            if refused is None:
                question.take(replies)
    except BaseException:
        connection.disconnect()
        raise
    if refused is not None:
        raise refused


async def exchange_async(
    client: redis_asyncio.Redis,
    idle: Idle[AsyncConnection] | None,
    question: Question,
    timeout_s: float | None,
) -> None:
    """As `exchange`, in `timeout_s` each time it is tried."""
    pool = client.connection_pool
    if idle is not None and (connection := idle.take()) is not None:
        kept = False
        try:
            await _ask_async(connection, question, timeout_s)
            kept = idle.keep(connection)
        except _LOST:
            pass
        else:
            return
        finally:
            if not kept:
                await pool.release(connection)
    connection = await pool.get_connection()
    kept = False
    try:
        await connection.retry.call_with_retry(
            lambda: _ask_async(connection, question, timeout_s),
            lambda _: connection.disconnect(nowait=True),
        )
        kept = idle is not None and idle.keep(connection)
    finally:
        if not kept:
            await pool.release(connection)


async def _ask_async(connection: AsyncConnection, question: Question, timeout_s: float | None) -> None:
    refused = None
    question.begin()
    try:
        async with asyncio.timeout(timeout_s):
            counts = []
            for payload, count in question.blocks():
                await connection.send_packed_command(payload)
                counts.append(count)
            for count in counts:
                replies: list[Any] = []
                for _ in range(count):
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        refused = refused or error
                if refused is None:
                    question.take(replies)
    except TimeoutError as error:
        await connection.disconnect(nowait=True)
        raise RedisTimeoutError("Timeout reading from Redis") from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    if refused is not None:
        raise refused

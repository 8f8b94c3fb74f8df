"""Commands sent in one go, replies read in one go.

A connection is used again only after every reply was read: one that was left in it would be taken for the
answer to the next request, which may be another tenant's.
"""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis import asyncio as redis_asyncio

    from feast_plugins.online.bulk import AsyncBulkConnection, BulkConnection

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

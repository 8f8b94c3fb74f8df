"""Connections of redis-py that read many replies at once: one by one takes longer than parsing them."""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser, _HiredisParser
from redis.asyncio.connection import Connection as AsyncConnection
from redis.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from redis import Redis
    from redis import asyncio as redis_asyncio

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
            return _checked(self._parser.read_responses(count))
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
                return _checked(await self._parser.read_responses(count))  # type: ignore[attr-defined]  # ours
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


def _checked(replies: list[Any]) -> list[Any]:
    """Some errors are the server's: it is loading its data, or is the master no more."""
    if set(map(type, replies)) != {list}:
        for reply in replies:
            if isinstance(reply, _UNUSABLE):
                raise RedisConnectionError(str(reply)) from reply
    return replies

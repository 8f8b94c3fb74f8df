"""Commands that are already encoded, sent through the connections of a Redis client.

Connecting, TLS, logging in and finding a sentinel's master are redis-py's; only bytes go past it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import hiredis
import redis

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_CHUNK = 1 << 18


class Channel:
    """One connection; whoever sends must collect the replies of it all before sending more."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, commands: memoryview) -> None:
        """Send commands."""
        with _named(self._socket):
            self._socket.sendall(commands)

    def ask(self, *command: bytes) -> bytes | int | None:
        """Reply to one command.

        Raises:
            redis.ResponseError: the server refused it.
        """
        sent = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command)
        self.send(memoryview(b"*%d\r\n%b" % (len(command), sent)))
        return cast("bytes | int | None", self._replies(1)[0])

    def number(self) -> int:
        """Collect one reply that is a number.

        Raises:
            redis.ResponseError: the server refused the command.
        """
        return int(cast("int", self._replies(1)[0]))

    def bulks(self, count: int) -> list[bytes | None]:
        """Collect replies that are strings or nil.

        Raises:
            redis.ResponseError: the server refused a command.
        """
        return cast("list[bytes | None]", self._replies(count))

    def _replies(self, count: int) -> list[object]:
        reader = hiredis.Reader(replyError=redis.ResponseError)
        replies: list[object] = []
        while len(replies) < count:
            reader.feed(self._receive())
            while (reply := reader.gets()) is not False:
                if isinstance(reply, redis.ResponseError):
                    raise reply
                replies.append(reply)
        return replies

    def integers(self, count: int) -> None:
        """Collect replies that are numbers, which say nothing.

        Raises:
            redis.ResponseError: the server refused a command; the first refusal.
        """
        replies, refused = bytearray(), False
        while count:
            chunk = self._receive()
            count -= chunk.count(b"\n")
            if refused or b"-" in chunk:
                refused = True
                replies += chunk
        if refused:
            first = next(line for line in replies.split(b"\r\n") if b"-" in line)
            raise redis.ResponseError(first.partition(b"-")[2].decode(errors="replace"))

    def _receive(self) -> bytes:
        with _named(self._socket):
            chunk = self._socket.recv(_CHUNK)
        if not chunk:
            raise redis.ConnectionError("Redis closed the connection in the middle of a materialization.")
        return chunk


@contextmanager
def open_channel(client: redis.Redis, timeout_s: float) -> Iterator[Channel]:
    """A connection of `client`'s pool; no reply for `timeout_s` is an error.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is gone, or silent.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    sock = cast("socket.socket", connection._sock)  # noqa: SLF001  # redis-py parses replies one by one
    sock.settimeout(timeout_s)
    try:
        yield Channel(sock)
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]
        pool.release(connection)


@contextmanager
def _named(sock: socket.socket) -> Iterator[None]:
    """Let errors of the connection be those of redis-py."""
    try:
        yield
    except TimeoutError as error:
        raise redis.TimeoutError(f"Redis has not answered for {sock.gettimeout():g} seconds.") from error
    except OSError as error:
        raise redis.ConnectionError(f"The connection to Redis broke: {error}") from error

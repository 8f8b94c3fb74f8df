"""The Redis servers that hold the keys, one or a cluster's, and connections that take encoded commands.

Connecting, TLS, logging in and finding a sentinel's master are redis-py's; only bytes go past it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import hiredis
import numpy as np
import pyarrow as pa
import redis
from redis.cluster import RedisCluster
from redis.crc import key_slot

from feast_plugins.materialize.encoding import data_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray


_CHUNK = 1 << 18


class Channel:
    """One connection. All replies to what was sent must be collected before more is sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, commands: memoryview) -> None:
        """Send commands."""
        with _translate_errors(self._socket):
            self._socket.sendall(commands)

    def execute(self, *command: bytes) -> bytes | int | None:
        """Send one command and return its reply.

        Raises:
            redis.ResponseError: the server refused it.
        """
        arguments = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command)
        self.send(memoryview(b"*%d\r\n%b" % (len(command), arguments)))
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
        """Collect and discard integer replies.

        Raises:
            redis.ResponseError: the server refused a command; the error of the first.
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
        with _translate_errors(self._socket):
            chunk = self._socket.recv(_CHUNK)
        if not chunk:
            raise redis.ConnectionError("Redis closed the connection in the middle of a materialization.")
        return chunk


@contextmanager
def open_channel(client: redis.Redis, timeout_s: float) -> Iterator[Channel]:
    """A connection of `client`'s pool, with a time-out of `timeout_s` seconds for each send and receive.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is unreachable, or does not answer in time.
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
def _translate_errors(sock: socket.socket) -> Iterator[None]:
    """Raise errors of the socket as those of redis-py."""
    try:
        yield
    except TimeoutError as error:
        raise redis.TimeoutError(f"Redis has not answered for {sock.gettimeout():g} seconds.") from error
    except OSError as error:
        raise redis.ConnectionError(f"The connection to Redis broke: {error}") from error


_REDIRECTS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
_TRIES, _PAUSE_S = 6, 0.5


class Shards:
    """One connection to each server that is needed. Not thread-safe."""

    def __init__(self, client: Any, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._stack = ExitStack()
        self._channels: dict[str, Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def is_single(self) -> bool:
        """Whether one server has all keys, unlike in a cluster."""
        return not isinstance(self._client, RedisCluster)

    def count(self, command: memoryview) -> int:
        """Integer reply of the only server to `command`."""
        channel = self._channel("", self._client)
        channel.send(command)
        return channel.number()

    def read(self, keys: pa.BinaryArray, commands: pa.BinaryArray) -> list[bytes | None]:
        """Replies to `commands`, one per key."""
        replies: list[bytes | None] = [None] * len(keys)

        def collect(channel: Channel, rows: NDArray[np.int64]) -> None:
            for row, reply in zip(rows.tolist(), channel.bulks(len(rows)), strict=True):
                replies[row] = reply

        self._run(keys, commands, collect)
        return replies

    def write(self, keys: pa.BinaryArray, commands: pa.BinaryArray, replies: int) -> None:
        """Run the commands of each key, which have `replies` integer replies per key."""
        self._run(keys, commands, lambda channel, rows: channel.integers(replies * len(rows)))

    def _run(self, keys: pa.BinaryArray, commands: pa.BinaryArray, collect: Any) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                for channel, rows in self._by_server(keys):
                    selected = commands if len(rows) == len(keys) else commands.take(pa.array(rows))
                    channel.send(data_of(selected))
                    collect(channel, rows)
            except redis.ResponseError as error:
                # slots are moving; rows that were written are written again
                if not tries_left or not str(error).startswith(_REDIRECTS):
                    raise
                self._stack.close()
                self._channels.clear()
                time.sleep(_PAUSE_S)
                self._client.nodes_manager.initialize()
            else:
                return

    def _by_server(self, keys: pa.BinaryArray) -> Iterator[tuple[Channel, NDArray[np.int64]]]:
        if self.is_single:
            yield self._channel("", self._client), np.arange(len(keys))
            return
        slots = np.fromiter((key_slot(key) for key in keys.to_pylist()), np.int64, len(keys))
        nodes = {slot: self._client.nodes_manager.get_node_from_slot(slot) for slot in set(slots.tolist())}
        names = np.array([nodes[slot].name for slot in slots.tolist()])
        for node in {node.name: node for node in nodes.values()}.values():
            rows = np.flatnonzero(names == node.name)
            yield self._channel(node.name, self._client.get_redis_connection(node)), rows

    def _channel(self, name: str, client: redis.Redis) -> Channel:
        if name not in self._channels:
            self._channels[name] = self._stack.enter_context(open_channel(client, self._timeout_s))
        return self._channels[name]

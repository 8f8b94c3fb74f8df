"""The Redis servers that hold the keys: one, or those of a cluster."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import redis
from redis.cluster import RedisCluster
from redis.crc import key_slot

from feast_plugins.materialize.channel import Channel, open_channel
from feast_plugins.materialize.ragged import data_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

_REDIRECTS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
_TRIES, _PAUSE_S = 6, 0.5


class Shards:
    """A connection to each server that is needed, for one thread."""

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
        """Whether one server has all keys."""
        return not isinstance(self._client, RedisCluster)

    def count(self, command: memoryview) -> int:
        """Reply of the only server to a command that counts."""
        channel = self._channel("", self._client)
        channel.send(command)
        return channel.number()

    def ask(self, keys: pa.BinaryArray, commands: pa.BinaryArray) -> list[bytes | None]:
        """Replies of one command a key."""
        replies: list[bytes | None] = [None] * len(keys)

        def collect(channel: Channel, rows: NDArray[np.int64]) -> None:
            for row, reply in zip(rows.tolist(), channel.bulks(len(rows)), strict=True):
                replies[row] = reply

        self._run(keys, commands, collect)
        return replies

    def write(self, keys: pa.BinaryArray, commands: pa.BinaryArray, replies: int) -> None:
        """Run the commands of each key, which have so many `replies` that are numbers."""
        self._run(keys, commands, lambda channel, rows: channel.integers(replies * len(rows)))

    def _run(self, keys: pa.BinaryArray, commands: pa.BinaryArray, collect: Any) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                for channel, rows in self._placed(keys):
                    part = commands if len(rows) == len(keys) else commands.take(pa.array(rows))
                    channel.send(data_of(part))
                    collect(channel, rows)
            except redis.ResponseError as error:
                # slots are on the move; what was written already is written again
                if not tries_left or not str(error).startswith(_REDIRECTS):
                    raise
                self._stack.close()
                self._channels.clear()
                time.sleep(_PAUSE_S)
                self._client.nodes_manager.initialize()
            else:
                return

    def _placed(self, keys: pa.BinaryArray) -> Iterator[tuple[Channel, NDArray[np.int64]]]:
        if self.is_single:
            yield self._channel("", self._client), np.arange(len(keys))
            return
        slots = np.fromiter((key_slot(key) for key in keys.to_pylist()), np.int64, len(keys))
        nodes = {slot: self._client.nodes_manager.get_node_from_slot(slot) for slot in set(slots.tolist())}
        places = np.array([nodes[slot].name for slot in slots.tolist()])
        for node in {node.name: node for node in nodes.values()}.values():
            rows = np.flatnonzero(places == node.name)
            yield self._channel(node.name, self._client.get_redis_connection(node)), rows

    def _channel(self, name: str, client: redis.Redis) -> Channel:
        if name not in self._channels:
            self._channels[name] = self._stack.enter_context(open_channel(client, self._timeout_s))
        return self._channels[name]

"""Commands of many rows in the Redis serialization protocol (RESP), and the event times that Redis has.

See redis.io/docs/latest/develop/reference/protocol-spec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.compute as pc

from feast_plugins.materialize.encoding import by_length, constant, data_of, lengths_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from feast_plugins.materialize.encoding import Pieces
    from feast_plugins.materialize.shards import Shards


def join(*pieces: pa.BinaryArray | pa.BinaryScalar) -> pa.BinaryArray:
    """Concatenated pieces of each row."""
    return pc.binary_join_element_wise(*pieces, constant(b""))


def text(value: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def bulk(pieces: Pieces) -> Pieces:
    """A bulk string of each row."""
    return (by_length(lengths_of(pieces), lambda length: b"$%d\r\n" % length), *pieces, constant(b"\r\n"))


def exists(keys: pa.BinaryArray) -> memoryview:
    """Command that counts existing keys; `keys` are bulk strings."""
    return memoryview(b"".join([b"*%d\r\n" % (len(keys) + 1), text(b"EXISTS"), data_of(keys)]))


def hget(keys: pa.BinaryArray, field: bytes) -> pa.BinaryArray:
    """Commands that read `field` of the hash of each key; `keys` are bulk strings."""
    return join(constant(b"*3\r\n" + text(b"HGET")), keys, constant(text(field)))


def hdel(keys: pa.BinaryArray, fields: Sequence[bytes]) -> pa.BinaryArray:
    """Commands that delete `fields` of the hash of each key; `keys` are bulk strings."""
    command = b"*%d\r\n" % (2 + len(fields)) + text(b"HDEL")
    return join(constant(command), keys, constant(b"".join(map(text, fields))))


def hset(
    keys: pa.BinaryArray, fields: Sequence[tuple[bytes, Pieces]], ttl_seconds: int | None
) -> pa.BinaryArray:
    """Commands that set the fields of the hash of each key and, with `ttl_seconds`, its expiry."""
    pieces = [constant(b"*%d\r\n" % (2 + 2 * len(fields)) + text(b"HSET")), keys]
    for name, values in fields:
        pieces += [constant(text(name)), *bulk(values)]
    if ttl_seconds:
        pieces += [constant(b"*3\r\n" + text(b"EXPIRE")), keys, constant(text(b"%d" % ttl_seconds))]
    return join(*_merged(pieces))


def _merged(pieces: Sequence[pa.BinaryArray | pa.BinaryScalar]) -> list[pa.BinaryArray | pa.BinaryScalar]:
    """The pieces with neighbouring constants joined: each piece costs a copy per row."""
    merged: list[pa.BinaryArray | pa.BinaryScalar] = []
    for piece in pieces:
        if merged and _is_constant(piece) and _is_constant(merged[-1]):
            merged[-1] = constant(merged[-1].as_py() + piece.as_py())
        else:
            merged.append(piece)
    return merged


def _is_constant(piece: pa.BinaryArray | pa.BinaryScalar) -> bool:
    return hasattr(piece, "as_py")


class StoredTimes:
    """Event times of a feature view's rows in Redis. Not thread-safe."""

    def __init__(self, shards: Shards, field: bytes) -> None:
        self._shards = shards
        self._field = field
        self._was_empty = False

    def times(self, keys: pa.BinaryArray, bulk: pa.BinaryArray) -> list[bytes | None]:
        """Serialized event time of each key, None where Redis has none; `bulk` is the keys as bulk strings.

        After a batch without any stored row, as in an empty Redis, one EXISTS for the whole batch is tried
        first, which costs the server less.
        """
        if self._was_empty and self._shards.is_single and not self._shards.count(exists(bulk)):
            return [None] * len(keys)
        times = self._shards.read(keys, hget(bulk, self._field))
        self._was_empty = not any(times)
        return times

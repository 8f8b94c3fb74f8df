"""Rows computed by a reader and put back, unless somebody has written the row meanwhile.

A reader saw an old row or none, and computed a newer one. What is in Redis by now may be newer still: written
by a materialization, a correction even of the same hour. So the row is set only where the time stored is the
one that was read, in one step of the server.

What was put back can be told from what was materialized: its time, a protobuf `Timestamp`, has one field
more, which says when it was computed. Whoever does not know the field passes over it, as protobuf has it.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from feast_plugins.online.exchange import Commands
from feast_plugins.online.writing import expiry, packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feast import RepoConfig

    from feast_plugins.online.plan import StoredView

#: Number of the field, and its tag: a fixed64 (https://protobuf.dev/programming-guides/encoding).
_COMPUTED: Final = 15
_COMPUTED_TAG: Final = bytes([_COMPUTED << 3 | 1])
_COMPUTED_VALUE: Final = struct.Struct("<Q")
_NANOS: Final = 10**9

#: KEYS: the hash. ARGV: field of the time, the time that was read, seconds to live (0: for ever), the pairs.
_SCRIPT = b"""\
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
local lives = tonumber(ARGV[3])
if lives > 0 and redis.call('TTL', KEYS[1]) < lives then redis.call('EXPIRE', KEYS[1], lives) end
return 1
"""


class Times(NamedTuple):
    """What the time of a stored row says, in nanoseconds since 1970."""

    event: int
    #: when a row that was put back was computed; None: it was materialized
    computed: int | None


@lru_cache(maxsize=4096)
def times_of(stamp: bytes) -> Times:
    """Both times of a stored row."""
    found = Timestamp.FromString(stamp)
    more = (field.data for field in UnknownFieldSet(found) if field.field_number == _COMPUTED)
    return Times(found.seconds * _NANOS + found.nanos, next(more, None))


def computed_at(stamp: bytes, nanos: int) -> bytes:
    """The time of a row that was computed at `nanos` and is put back."""
    return stamp + _COMPUTED_TAG + _COMPUTED_VALUE.pack(nanos)


def write_back(
    config: RepoConfig, view: StoredView, key: bytes, row: Mapping[bytes, bytes], read: bytes | None
) -> Commands:
    """Command that sets a whole row of `view`: each field, and its time, by its name in Redis.

    `read` is the time that was stored when the row was read (None: there was none). The
    reply is 1, or 0 where another time is stored by now.
    """
    lives = expiry(config.online_store.key_ttl_seconds, view.view) or 0
    pairs = [part for pair in row.items() for part in pair]
    return Commands.of(
        [packed(b"EVAL", _SCRIPT, b"1", key, view.stamp_field, read or b"", b"%d" % lives, *pairs)]
    )


def mark(key: bytes, value: bytes, seconds: int) -> Commands:
    """Command that sets a plain key, which vanishes after so many seconds."""
    return Commands.of([packed(b"SET", key, value, b"EX", b"%d" % seconds)])


def get_marks(keys: Sequence[bytes]) -> Commands:
    """Commands that read them."""
    return Commands.of([packed(b"GET", key) for key in keys])


def joined(commands: Sequence[Commands]) -> Commands:
    """All of them in one go."""
    return Commands(b"".join([each.payload for each in commands]), sum(each.replies for each in commands))


def is_written(reply: Any) -> bool:
    """Whether the row of a `write_back` was set."""
    return bool(reply == 1)

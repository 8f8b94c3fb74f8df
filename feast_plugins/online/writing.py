"""Commands that write rows, write back rows that a reader computed, and delete those of one project.

A reader saw an old row or none, and computed a newer one. What is in Redis by now may be newer still: written
by a materialization, a correction even of the same hour. So a row is written back only where the time stored
is the one that was read, and of a materialized row, to which a correction leaves its time, all else that was
read, in one step of the server.

What was written back can be told from what was materialized: its time, a protobuf `Timestamp`, has one field
more, which says when it was computed. Whoever does not know the field passes over it, as protobuf has it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from feast import utils
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from feast_plugins.online import encoding
from feast_plugins.online.connection import Commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from feast import FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
    from collections.abc import Iterable, Mapping

    from feast_plugins.online.connection import Client
    from feast_plugins.online.plan import StoredView


#: Keys of a round trip.
_BATCH: Final = 1000
_NANOS: Final = 10**9
_MILLIS: Final = 1000


class Write:
    """Some rows of one view."""

    def __init__(self, config: RepoConfig, view: FeatureView, rows: Sequence[Row]) -> None:
        encoding.require_version(config)
        self._name = _versioned_fv_name(view, config)
        self._stamp_field = f"_ts:{self._name}".encode()
        self._ignore_age = config.online_store.skip_dedup
        self._expire_s = expiry(config.online_store.key_ttl_seconds, view)
        stamps = {time: stamp_of(time) for time in {time for _, _, time, _ in rows}}
        project = config.project.encode()
        # the newest of an entity is written last; of the same time, the one that came last
        self._rows = sorted(
            ((*stamps[time], _key(key) + project, values) for key, values, time, _ in rows),
            key=lambda row: row[0],
        )

    @classmethod
    def batches(cls, config: RepoConfig, view: FeatureView, rows: Sequence[Row]) -> Iterator[Write]:
        """All rows, so many at a time that neither side holds much."""
        rest = iter(rows)
        while batch := list(islice(rest, _BATCH)):
            yield cls(config, view, batch)

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def questions(self) -> Commands:
        """For each row the time of what is stored, and how long its key lives if that matters."""
        found = []
        for _, _, key, _ in self._rows:
            if not self._ignore_age:
                found.append(packed(b"HGET", key, self._stamp_field))
            if self._expire_s:
                found.append(packed(b"PTTL", key))
        return Commands.of(found)

    def commands(self, answers: Sequence[Any]) -> Commands:
        """Rows that are not older than what is stored.

        A key lives as long as the view that keeps rows longest wants: its time is extended, never cut.
        """
        rest = iter(answers)
        found = []
        for nanos, stamp, key, values in self._rows:
            stored = None if self._ignore_age else next(rest)
            left = next(rest) if self._expire_s else 0
            if stored is not None and nanos < nanos_of(stored):
                continue
            pairs = [self._stamp_field, stamp]
            for name, value in values.items():
                pairs += (_field(f"{self._name}:{name}"), value.SerializeToString())
            found.append(packed(b"HSET", key, *pairs))
            if self._expire_s and left < self._expire_s * _MILLIS:
                found.append(packed(b"EXPIRE", key, b"%d" % self._expire_s))
        return Commands.of(found)


def expiry(key_ttl_seconds: int | None, view: FeatureView) -> int | None:
    """Seconds a key lives after a row of the view was written; None: for ever.

    Never less than the view's own time to live, or rows would vanish that are young enough.
    """
    if not key_ttl_seconds:
        return None
    ttl = getattr(view, "ttl", None)
    return max(key_ttl_seconds, math.ceil(ttl.total_seconds()) if ttl else 0)


def _key(key: EntityKey) -> bytes:
    pairs = sorted(zip(key.join_keys, key.entity_values, strict=True), key=lambda pair: pair[0])
    return b"".join(
        [_prefix(tuple(name for name, _ in pairs)), *[encoding.part(value) for _, value in pairs]]
    )


def stamp_of(time: datetime) -> tuple[int, bytes]:
    """Nanoseconds since 1970, and the serialized `Timestamp`."""
    stamp = Timestamp()
    stamp.FromDatetime(utils.make_tzaware(time))
    return stamp.seconds * _NANOS + stamp.nanos, stamp.SerializeToString()


def nanos_of(stamp: bytes) -> int:
    """Nanoseconds since 1970 of a serialized `Timestamp`."""
    found = Timestamp.FromString(stamp)
    return int(found.seconds * _NANOS + found.nanos)


def packed(*arguments: bytes) -> bytes:
    """A command in the protocol of Redis."""
    return b"".join(
        [b"*%d\r\n" % len(arguments), *[b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments]]
    )


@lru_cache(maxsize=4096)
def _field(name: str) -> bytes:
    return bytes(_mmh3(name))


@lru_cache(maxsize=256)
def _prefix(join_keys: tuple[str, ...]) -> bytes:
    return encoding.prefix(join_keys)


#: Number of the field, and its tag: a fixed64 (https://protobuf.dev/programming-guides/encoding).
_COMPUTED: Final = 15
_COMPUTED_TAG: Final = bytes([_COMPUTED << 3 | 1])
_COMPUTED_VALUE: Final = struct.Struct("<Q")

#: KEYS: the hash. ARGV: seconds to live (0: for ever), how many fields were read, those, and all to set
_SCRIPT = b"""\
local lives, read = tonumber(ARGV[1]), tonumber(ARGV[2])
for at = 3, 2 + 2 * read, 2 do
    if (redis.call('HGET', KEYS[1], ARGV[at]) or '') ~= ARGV[at + 1] then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3 + 2 * read))
if lives > 0 and redis.call('TTL', KEYS[1]) < lives then redis.call('EXPIRE', KEYS[1], lives) end
return 1
"""


class Times(NamedTuple):
    """What the time of a stored row says, in nanoseconds since 1970."""

    event: int
    #: when a row that was written back was computed; None: it was materialized
    computed: int | None


@lru_cache(maxsize=4096)  # most rows of an hour have the same
def times_of(stamp: bytes) -> Times:
    """Both times of a stored row."""
    found = Timestamp.FromString(stamp)
    more = (field.data for field in UnknownFieldSet(found) if field.field_number == _COMPUTED)
    return Times(found.seconds * _NANOS + found.nanos, next(more, None))


def computed_at(stamp: bytes, nanos: int) -> bytes:
    """The time of a row that was computed at `nanos` and is written back."""
    return stamp + _COMPUTED_TAG + _COMPUTED_VALUE.pack(nanos)


def write_back(
    config: RepoConfig,
    view: StoredView,
    key: bytes,
    row: Mapping[bytes, bytes],
    read: Mapping[bytes, bytes | None],
) -> Commands:
    """Command that sets a whole row of `view`: each field, and its time, by its name in Redis.

    `read` has fields as they were stored when the row was read (None: there was none), the time among them.
    The reply is 1, or 0 where one of them is another by now.
    """
    lives = expiry(config.online_store.key_ttl_seconds, view.view) or 0
    pairs = [part or b"" for pair in (*read.items(), *row.items()) for part in pair]
    return Commands.of([packed(b"EVAL", _SCRIPT, b"1", key, b"%d" % lives, b"%d" % len(read), *pairs)])


def set_value(key: bytes, value: bytes, seconds: int) -> Commands:
    """Command that sets a plain key, which vanishes after so many seconds."""
    return Commands.of([packed(b"SET", key, value, b"EX", b"%d" % seconds)])


def get_values(keys: Sequence[bytes]) -> Commands:
    """Commands that read them."""
    return Commands.of([packed(b"GET", key) for key in keys])


def joined(commands: Sequence[Commands]) -> Commands:
    """All of them in one go."""
    return Commands(b"".join([each.payload for each in commands]), sum(each.replies for each in commands))


def is_written(reply: Any) -> bool:
    """Whether the row of a `write_back` was set."""
    return bool(reply == 1)


def delete_entities(client: Client, project: str, join_keys: Iterable[Sequence[str]]) -> int:
    """Delete whatever is stored of entities with these sets of join keys; returns of how many."""
    count = 0
    for names in {tuple(sorted(each)) for each in join_keys}:
        for batch in _batches(client, project, names):
            with client.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.unlink(key)
                count += sum(pipe.execute())
    return count


def keys_of_value(
    client: Client, project: str, join_keys: Iterable[Sequence[str]], name: str, value: str
) -> Iterator[bytes]:
    """Keys of the project's entities whose join key `name` has this text; one may come twice."""
    text = value.encode()
    for names in {tuple(sorted(each)) for each in join_keys if name in each}:
        for batch in _batches(client, project, names):
            yield from (key for key in batch if encoding.take_apart(key)[0][name] == text)


def delete_of_value(
    client: Client, project: str, join_keys: Iterable[Sequence[str]], name: str, value: str
) -> int:
    """Delete whatever is stored of such entities (see `keys_of_value`); returns of how many."""
    count = 0
    found = keys_of_value(client, project, join_keys, name, value)
    while batch := list(islice(found, _BATCH)):
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.unlink(key)
            count += sum(pipe.execute())
    return count


def delete_view(
    client: Client, config: RepoConfig, view: FeatureView, earlier_features: Iterable[str] = ()
) -> int:
    """Delete the view's rows and leave what others have stored of the same entities; returns how many.

    The last view of an entity takes with it what views left behind that lost a feature: nobody reads it.
    """
    name = _versioned_fv_name(view, config)
    stamp = f"_ts:{name}".encode()
    names = {*(feature.name for feature in view.features), *earlier_features}
    ours = {stamp} | {_mmh3(f"{name}:{feature}") for feature in names}
    count = 0
    for batch in _batches(client, config.project, view.join_keys):
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.hkeys(key)  # type: ignore[arg-type]  # keys are bytes
            stored = dict(zip(batch, pipe.execute(), strict=True))
        with client.pipeline(transaction=False) as pipe:
            for key, fields in stored.items():
                if stamp in fields:
                    others = any(field.startswith(b"_ts:") and field != stamp for field in fields)
                    # by name, never the whole key: another view may be being written
                    pipe.hdel(key, *(ours if others else fields))  # type: ignore[arg-type]  # the same
                    count += 1
            pipe.execute()
    return count


def delete_outdated(
    client: Client, config: RepoConfig, view: FeatureView, meanings: Mapping[str, object]
) -> None:
    """Delete the view's rows unless each feature means what it did when they were written.

    What Redis may hold is noted there: by feature, in any JSON. A killed call is safe to repeat.
    """
    stored, earlier = dict(meanings), noted_meanings(client, config.project, view.name)
    if earlier and all(earlier[name] == stored[name] for name in earlier.keys() & stored.keys()):
        # a feature that was taken out leaves its values in rows that are not written anew
        stored = earlier | stored
    else:
        delete_view(client, config, view, earlier)
    client.set(meanings_key(config.project, view.name), json.dumps(stored, sort_keys=True))


def noted_meanings(client: Client, project: str, view: str) -> dict[str, Any]:
    """What was noted of the features of which Redis may have values; empty: nothing."""
    noted: Any = client.get(meanings_key(project, view))
    return json.loads(noted) if noted else {}


def meanings_key(project: str, view: str) -> bytes:
    """Redis key of what the features of a view's rows mean."""
    return b"feast_plugins:meanings:" + hashlib.sha256(json.dumps([project, view]).encode()).digest()


def _batches(client: Client, project: str, join_keys: Iterable[str]) -> Iterator[list[bytes]]:
    """The project's keys with exactly these join keys; one may come twice."""
    wanted = tuple(sorted(join_keys)), project
    found = client.scan_iter(match=encoding.pattern(join_keys, project), count=_BATCH)
    while batch := list(islice(found, _BATCH)):
        if ours := [key for key in batch if _parsed(key) == wanted]:
            yield ours


def _parsed(key: bytes) -> tuple[tuple[str, ...], str] | None:
    try:
        return encoding.parse(key)
    except encoding.NotOurKeyError:
        return None

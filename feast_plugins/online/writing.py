"""Rows to be written: what is asked first, and the commands that follow from the answers."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from feast import utils
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.online import entities, keys
from feast_plugins.online.exchange import Commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from feast import FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

_BATCH = 1000
_NANOS = 10**9
_MILLIS = 1000


class Write:
    """Some rows of one view."""

    def __init__(self, config: RepoConfig, view: FeatureView, rows: Sequence[Row]) -> None:
        keys.require_version(config)
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

        A key lives as long as the most patient of its views wants: its time is extended, never cut.
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
        [_prefix(tuple(name for name, _ in pairs)), *[entities.part(value) for _, value in pairs]]
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
    return keys.prefix(join_keys)

"""The answer's columns: stored bytes become values with a status and a time, without being decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.online import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

PRESENT: int = FieldStatus.PRESENT
NULL_VALUE: int = FieldStatus.NULL_VALUE
NOT_FOUND: int = FieldStatus.NOT_FOUND
OUTSIDE_MAX_AGE: int = FieldStatus.OUTSIDE_MAX_AGE

#: A `Value` whose `null_val` is set.
_NULL = b"\x98\x01\x00"
_NULLS = (None, b"", _NULL)
_VALUES, _STATUSES, _TIMES = wire.Field(1), wire.Field(2), wire.Field(3)
_NANOS = 10**9


class Column:
    """Values of one feature or key: serialized, with a status and a time each."""

    __slots__ = ("_lengths", "_tail", "stamps", "statuses", "values")

    def __init__(
        self,
        values: Sequence[bytes],
        lengths: set[int],
        statuses: bytes,
        stamps: list[bytes] | None,
        tail: bytes,
    ) -> None:
        self.values = values
        #: every length there is among the values
        self._lengths = lengths
        self.statuses = statuses
        #: serialized `Timestamp` of each row; None: the feature has no times
        self.stamps = stamps
        #: statuses and times as fields of a `FeatureVector`
        self._tail = tail

    def vector(self) -> bytes:
        """The column as a serialized `FeatureVector`."""
        if len(self._lengths) == 1:  # most often: numbers
            (length,) = self._lengths
            prefix = _VALUES[length]
            return b"%b%b%b" % (prefix, prefix.join(self.values), self._tail)
        return _VALUES.all(self.values) + self._tail


class Rows:
    """Rows of a view: how old they are, and what that does to their values."""

    def __init__(self, stamps: Sequence[bytes | None], ttl: int | None, now: int) -> None:
        """Judge rows by their serialized times; `ttl` and `now` in nanoseconds, no `ttl`: for ever."""
        known = {stamp: _state(stamp, ttl, now) for stamp in set(stamps)}
        self._are_present = set(known.values()) == {PRESENT}
        self._states = bytes([known[stamp] for stamp in stamps])
        self._stamps = [stamp or b"" for stamp in stamps]
        self._times = _TIMES.all(self._stamps)
        self._tail = _STATUSES.one(self._states) + self._times

    @property
    def present(self) -> int:
        """How many rows are there and young enough."""
        return self._states.count(PRESENT)

    def column(self, stored: Sequence[bytes | None]) -> Column:
        """Values of a feature of these rows."""
        if self._are_present:
            try:
                lengths = set(map(len, stored))  # type: ignore[arg-type]  # None is what it finds out
            except TypeError:
                lengths = {0}
            if 0 not in lengths and (len(_NULL) not in lengths or _NULL not in stored):
                return Column(stored, lengths, self._states, self._stamps, self._tail)  # type: ignore[arg-type]  # no None
        pairs = list(zip(self._states, stored, strict=True))
        values = [value or b"" if state == PRESENT else b"" for state, value in pairs]
        statuses = bytes(
            [NULL_VALUE if state == PRESENT and value in _NULLS else state for state, value in pairs]
        )
        tail = _STATUSES.one(statuses) + self._times
        return Column(values, set(map(len, values)), statuses, self._stamps, tail)


def given(values: Sequence[bytes]) -> Column:
    """A column of keys or inputs, as they were given; none has a time."""
    return _timeless(values, b"\x01" * len(values))


def computed(values: Sequence[bytes]) -> Column:
    """A column of features computed on demand; none has a time."""
    return _timeless(values, bytes([NULL_VALUE if value in _NULLS else PRESENT for value in values]))


def _timeless(values: Sequence[bytes], statuses: bytes) -> Column:
    tail = _STATUSES.one(statuses) + _TIMES[0] * len(values)
    return Column(values, set(map(len, values)), statuses, None, tail)


def _state(stamp: bytes | None, ttl: int | None, now: int) -> int:
    if stamp is None:
        return NOT_FOUND
    if ttl is None:
        return PRESENT
    time = Timestamp.FromString(stamp)
    return PRESENT if time.seconds * _NANOS + time.nanos >= now - ttl else OUTSIDE_MAX_AGE

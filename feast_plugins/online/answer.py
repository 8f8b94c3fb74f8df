"""The answer's columns: stored bytes become values with a status and a time, without being decoded."""

from __future__ import annotations

from itertools import chain
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


class Times:
    """Serialized `Timestamp` of each row of a view, in blocks."""

    def __init__(self) -> None:
        self._blocks: list[list[bytes]] = []
        self._fields: list[bytes] = []

    def add(self, stamps: Sequence[bytes | None]) -> None:
        """Append a block; None: there is no row."""
        found = [stamp or b"" for stamp in stamps]
        self._blocks.append(found)
        self._fields.append(_TIMES.all(found))

    @property
    def stamps(self) -> list[bytes]:
        """The times."""
        return list(chain.from_iterable(self._blocks))

    @property
    def field(self) -> bytes:
        """The times as the field of a `FeatureVector`."""
        return b"".join(self._fields)


class Column:
    """Values of one feature or key: serialized, with a status and a time each, in blocks."""

    __slots__ = ("_blocks", "_fields", "_statuses", "times")

    def __init__(self, times: Times | None) -> None:
        self._blocks: list[Sequence[bytes]] = []
        self._fields: list[bytes] = []
        self._statuses: list[bytes] = []
        #: None: the feature has no times
        self.times = times

    def add(self, values: Sequence[bytes], lengths: set[int], statuses: bytes) -> None:
        """Append a block; `lengths` are all lengths there are among the values."""
        self._blocks.append(values)
        self._statuses.append(statuses)
        if len(lengths) == 1:  # most often: numbers
            (length,) = lengths
            prefix = _VALUES[length]
            self._fields.append(prefix + prefix.join(values))
        else:
            self._fields.append(_VALUES.all(values))

    @property
    def values(self) -> Sequence[bytes]:
        """The serialized values."""
        blocks = self._blocks
        return blocks[0] if len(blocks) == 1 else list(chain.from_iterable(blocks))

    @property
    def statuses(self) -> bytes:
        """Status of each value."""
        return b"".join(self._statuses)

    def vector(self) -> bytes:
        """The column as a serialized `FeatureVector`."""
        statuses = self.statuses
        times = self.times.field if self.times else _TIMES[0] * len(statuses)
        return b"%b%b%b" % (b"".join(self._fields), _STATUSES.one(statuses), times)


class StoredColumns:
    """Columns of a view's features."""

    def __init__(self, count: int, ttl: int | None) -> None:
        """`count` features whose rows live `ttl` nanoseconds (None: for ever)."""
        self._ttl = ttl
        self._times = Times()
        self.columns = [Column(self._times) for _ in range(count)]

    def add(
        self, stamps: Sequence[bytes | None], features: Sequence[Sequence[bytes | None]], now: int
    ) -> int:
        """Append a block of rows, and say how many are there and young enough; `now` in nanoseconds."""
        known = {stamp: _state(stamp, self._ttl, now) for stamp in set(stamps)}
        states = bytes([known[stamp] for stamp in stamps])
        self._times.add(stamps)
        if set(known.values()) == {PRESENT}:
            for column, stored in zip(self.columns, features, strict=True):
                _add_present(column, stored, states)
            return len(states)
        for column, stored in zip(self.columns, features, strict=True):
            pairs = list(zip(states, stored, strict=True))
            values = [value or b"" if state == PRESENT else b"" for state, value in pairs]
            statuses = [
                NULL_VALUE if state == PRESENT and value in _NULLS else state for state, value in pairs
            ]
            column.add(values, set(map(len, values)), bytes(statuses))
        return states.count(PRESENT)


def _add_present(column: Column, stored: Sequence[bytes | None], states: bytes) -> None:
    """Append values of rows that are all there."""
    try:
        lengths = set(map(len, stored))  # type: ignore[arg-type]  # None is what it looks for
    except TypeError:
        lengths = {0}
    if 0 not in lengths and (len(_NULL) not in lengths or _NULL not in stored):
        column.add(stored, lengths, states)  # type: ignore[arg-type]  # no None
        return
    values = [value or b"" for value in stored]
    statuses = [NULL_VALUE if value in _NULLS else PRESENT for value in values]
    column.add(values, set(map(len, values)), bytes(statuses))


def _state(stamp: bytes | None, ttl: int | None, now: int) -> int:
    if stamp is None:
        return NOT_FOUND
    if ttl is None:
        return PRESENT
    time = Timestamp.FromString(stamp)
    return PRESENT if time.seconds * _NANOS + time.nanos >= now - ttl else OUTSIDE_MAX_AGE


def computed(values: Sequence[bytes]) -> Column:
    """A column of features computed on demand; none has a time."""
    column = Column(None)
    column.add(
        values,
        set(map(len, values)),
        bytes([NULL_VALUE if value in _NULLS else PRESENT for value in values]),
    )
    return column


def given(column: Column, values: Sequence[bytes]) -> None:
    """Append a block of keys or inputs, as they were given."""
    column.add(values, set(map(len, values)), b"\x01" * len(values))

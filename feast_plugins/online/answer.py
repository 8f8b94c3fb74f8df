"""The answer, by column: stored bytes become values with a status and a time, without being decoded.

It is Feast's `OnlineResponse`, and the JSON that Feast's feature server sends.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any

from feast.feature_server_utils import _float_to_native, _timestamp_to_str, _value_to_native
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import (
    FeatureViewMetadata,
    FieldStatus,
    GetOnlineFeaturesResponse,
)
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.online import protobuf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast.value_type import ValueType


PRESENT: int = FieldStatus.PRESENT
NULL_VALUE: int = FieldStatus.NULL_VALUE
NOT_FOUND: int = FieldStatus.NOT_FOUND
OUTSIDE_MAX_AGE: int = FieldStatus.OUTSIDE_MAX_AGE

#: A `Value` whose `null_val` is set.
_NULL = b"\x98\x01\x00"
_NULLS = (None, b"", _NULL)
_VALUES, _STATUSES, _TIMES = protobuf.Field(1), protobuf.Field(2), protobuf.Field(3)
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


_METADATA, _RESULTS = protobuf.Field(1), protobuf.Field(2)
_NAMES, _VIEWS = protobuf.Field(1), protobuf.Field(2)


class ColumnarResponse(OnlineResponse):
    """Feast's response, whose `to_dict` needs no message; all other methods build on the two."""

    def __init__(
        self,
        columns: Sequence[tuple[str, Column]],
        feature_types: dict[str, ValueType],
        view_metadata: Sequence[bytes] = (),
    ) -> None:
        self.columns = columns
        self.view_metadata = view_metadata
        self._feature_types = feature_types
        self._message: GetOnlineFeaturesResponse | None = None
        self._bytes = b""

    @property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]  # made when it is looked at
        """The response as Feast's message."""
        if self._message is None:
            self._bytes = self.serialized()
            self._message = GetOnlineFeaturesResponse.FromString(self._bytes)
        return self._message

    def serialized(self) -> bytes:
        """The response as the bytes of Feast's message."""
        metadata = _names(tuple([name for name, _ in self.columns])) + _VIEWS.all(self.view_metadata)
        return _METADATA.one(metadata) + _RESULTS.all([column.vector() for _, column in self.columns])

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:  # Feast's signature
        """Values by name; with `include_event_timestamps` the times, too, as seconds since 1970."""
        if self._message is not None and self._message.SerializeToString() != self._bytes:
            return super().to_dict(include_event_timestamps)  # it was changed
        found: dict[str, list[Any]] = {}
        for name, column in self.columns:
            found[name] = protobuf.python_values(column.values, self._feature_types.get(name))
            if include_event_timestamps:
                stamps = column.stamps
                found[name + TIMESTAMP_POSTFIX] = (
                    [0] * len(column.values) if stamps is None else protobuf.seconds(stamps)
                )
        return found


@lru_cache(maxsize=1024)
def _names(names: tuple[str, ...]) -> bytes:
    """Names of the columns as a field of the metadata; requests repeat."""
    return _NAMES.one(_NAMES.all([name.encode() for name in names]))


_STATUS_NAMES = {value.number: value.name for value in FieldStatus.DESCRIPTOR.values}
_PRESENT_NAME = f'"{_STATUS_NAMES[PRESENT]}"'
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_body(response: ColumnarResponse) -> bytes:
    """The response as JSON."""
    times: dict[int, str] = {}
    results = []
    for _, column in response.columns:
        of_view = id(column.stamps)  # all features of a view share them
        if of_view not in times:
            times[of_view] = _times(column)
        results.append(
            f'{{"values":{_encode(_values(column.values))},"statuses":{_statuses(column.statuses)}'
            f"{times[of_view]}}}"
        )
    metadata: dict[str, Any] = {"feature_names": [name for name, _ in response.columns]}
    if response.view_metadata:
        metadata["feature_view_metadata"] = [_view(each) for each in response.view_metadata]
    return f'{{"results":[{",".join(results)}],"metadata":{_encode(metadata)}}}'.encode()


def _values(values: Sequence[bytes]) -> list[Any]:
    found = protobuf.plain_values(values)
    if found is None:
        return [_value_to_native(Value.FromString(value)) for value in values]
    if all(value is None or not isinstance(value, float) or isfinite(value) for value in found):
        return found
    return [_float_to_native(value) if isinstance(value, float) else value for value in found]


def _statuses(statuses: bytes) -> str:
    count = statuses.count(PRESENT)
    if count == len(statuses):
        return f"[{','.join([_PRESENT_NAME] * count)}]"
    return str(_encode([_STATUS_NAMES[status] for status in statuses]))


def _times(column: Column) -> str:
    stamps = [b""] * len(column.values) if column.stamps is None else column.stamps
    if not stamps:
        return ""
    known = {stamp: f'"{_timestamp_to_str(Timestamp.FromString(stamp))}"' for stamp in set(stamps)}
    return f',"event_timestamps":[{",".join([known[stamp] for stamp in stamps])}]'


def _view(metadata: bytes) -> dict[str, Any]:
    view = FeatureViewMetadata.FromString(metadata)
    found = {"name": view.name} if view.name else {}
    return found | ({"version": view.version} if view.version else {})

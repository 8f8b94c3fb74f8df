"""One request: from entity rows to commands, and from their replies to the answer with on-demand features.

Stored bytes become columns of values with a status and a time, without being decoded; the answer is Feast's
`OnlineResponse`, and the JSON that Feast's feature server sends. On-demand views in Python mode get decoded
columns of their own sources. Views in other modes and with aggregations are left to Feast's own code.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import json
import struct
import time
from functools import cache, lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any

from feast import metrics, utils
from feast.feature_server_utils import _float_to_native, _timestamp_to_str, _value_to_native
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import (
    FeatureViewMetadata,
    FieldStatus,
    GetOnlineFeaturesResponse,
)
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.online import encoding
from feast_plugins.online.connection import Commands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from feast import OnDemandFeatureView

    from feast_plugins.online.plan import Plan, Transform

    Named = list[tuple[str, "Column"]]


PRESENT: int = FieldStatus.PRESENT
NULL_VALUE: int = FieldStatus.NULL_VALUE
NOT_FOUND: int = FieldStatus.NOT_FOUND
OUTSIDE_MAX_AGE: int = FieldStatus.OUTSIDE_MAX_AGE

#: A `Value` whose `null_val` is set.
_NULL = b"\x98\x01\x00"
_NULLS = (None, b"", _NULL)
_VALUES, _STATUSES, _TIMES = encoding.Field(1), encoding.Field(2), encoding.Field(3)
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


def given_column(values: Sequence[bytes]) -> Column:
    """A column of keys or inputs, as they were given; none has a time."""
    return _timeless(values, b"\x01" * len(values))


def computed_column(values: Sequence[bytes]) -> Column:
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


_METADATA, _RESULTS = encoding.Field(1), encoding.Field(2)
_NAMES, _VIEWS = encoding.Field(1), encoding.Field(2)


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
            found[name] = encoding.python_values(column.values, self._feature_types.get(name))
            if include_event_timestamps:
                stamps = column.stamps
                found[name + TIMESTAMP_POSTFIX] = (
                    [0] * len(column.values) if stamps is None else encoding.seconds(stamps)
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
    found = encoding.plain_values(values)
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


_INT64_VAL, _DOUBLE_VAL = b"\x20", b"\x29"
_INT64 = range(-(1 << 63), 1 << 63)
_UNSIGNED = 1 << 64
_NUMBERS_OR_NONE = ({int}, {int, type(None)})
_FLOATS_OR_NONE = ({float}, {float, type(None)})


def is_python(plan: Plan) -> bool:
    """Whether `transform` computes the plan's on-demand views; Feast's own code does others."""
    return all(each.is_python for each in plan.transforms)


def transform(
    plan: Plan, given: Mapping[str, list[Any]], stored: Callable[[int], Mapping[str, list[Any]]]
) -> dict[str, tuple[list[Any], ValueType]]:
    """Outputs of the plan's on-demand views and their types, by their names in the answer.

    `given` are keys and inputs, `stored` gives the values of a stored view by its index in the plan.
    """
    found: dict[str, tuple[list[Any], ValueType]] = {}
    for each in plan.transforms:
        started = time.monotonic()
        inputs = dict(given)
        for number in each.sources:
            inputs |= stored(number)
        values = _call_by_row(each.view, inputs) if each.view.singleton else _call(each, inputs)
        for full, name, name_in_answer, kind in each.outputs:
            if (key := full if full in values else name) in values:
                found[name_in_answer] = _listed(values[key]), kind
        if metrics._config.online_features and each.view.track_metrics:  # noqa: SLF001  # Feast's switch
            metrics.track_transformation(each.view.name, each.view.mode, time.monotonic() - started)
    return found


def compute_on_demand(plan: Plan, given: Named, stored: Sequence[Sequence[Column]]) -> dict[str, Column]:
    """Features of the plan's on-demand views by their names in the answer.

    `given` are keys and inputs, `stored` the columns of each stored view of the plan.
    """
    if not is_python(plan):
        return _computed_by_feast(plan, given, stored)

    @cache
    def decoded(number: int) -> dict[str, list[Any]]:
        view = plan.views[number]
        return {
            name: encoding.python_values(column.values, kind)
            for name, kind, column in zip(view.names, view.types, stored[number], strict=True)
        }

    known = {name: encoding.python_values(column.values, None) for name, column in given}
    outputs = transform(plan, known, decoded)
    return {name: computed_column(encode_outputs(values, kind)) for name, (values, kind) in outputs.items()}


def _call_by_row(view: OnDemandFeatureView, inputs: dict[str, list[Any]]) -> dict[str, Any]:
    """Outputs of a view that takes a single row, called for each."""
    rows = max(map(len, inputs.values()), default=0)
    if rows <= 1:
        return view.transform_dict(inputs)
    outputs = [
        view.transform_dict({name: values[row : row + 1] for name, values in inputs.items()})
        for row in range(rows)
    ]
    return {name: [value for row in outputs for value in _listed(row[name])] for name in outputs[0]}


def _call(each: Transform, inputs: dict[str, list[Any]]) -> dict[str, Any]:
    """What the view's `transform_dict` gives, without the checks of types at run time around each step of it.

    They take several times as long as a view like that of the calendar.
    """
    both = dict(inputs)
    added = []
    for short, full in each.inputs:
        given, other = (full, short) if full in inputs else (short, full)
        if given in inputs:
            both[other] = inputs[given]
            added.append(other)
    function: Any = each.view.feature_transformation
    outputs: dict[str, Any] = both | function.udf(both)
    for name in added:
        outputs.pop(name, None)
    return outputs


def _listed(output: Any) -> list[Any]:
    return output if isinstance(output, list) else [output]


def encode_outputs(values: Sequence[Any], kind: ValueType) -> list[bytes]:
    """Each value as a serialized `Value`, the same that Feast's own conversion gives."""
    types = set(map(type, values))
    different = set(values) if types in _NUMBERS_OR_NONE or types in _FLOATS_OR_NONE else set()
    if kind == ValueType.INT64 and types in _NUMBERS_OR_NONE and all(_fits(number) for number in different):
        known = {
            number: b"" if number is None else _INT64_VAL + encoding.varint(number % _UNSIGNED)
            for number in different
        }
        return [known[number] for number in values]
    if kind == ValueType.DOUBLE and types in _FLOATS_OR_NONE:
        # not a number: no value
        return [
            b"" if number is None or number != number else _DOUBLE_VAL + struct.pack("<d", number)  # noqa: PLR0124
            for number in values
        ]
    return [proto.SerializeToString() for proto in python_values_to_proto_values(list(values), kind)]


def as_stored(values: list[Any], kind: ValueType) -> list[Any]:
    """The values as who reads them sees them: what `encode_outputs` gives, decoded."""
    types = set(map(type, values))
    if kind == ValueType.INT64 and types in _NUMBERS_OR_NONE and all(map(_fits, values)):
        return values
    return encoding.python_values(encode_outputs(values, kind), kind)


def _fits(number: int | None) -> bool:
    return number is None or number in _INT64


def _computed_by_feast(plan: Plan, given: Named, stored: Sequence[Sequence[Column]]) -> dict[str, Column]:
    fields = [
        (name, column)
        for each, columns in zip(plan.views, stored, strict=True)
        for name, column in zip(each.names, columns, strict=True)
    ]
    message = ColumnarResponse(given + fields, plan.feature_types).proto
    before = len(message.results)
    utils._augment_response_with_on_demand_transforms(  # noqa: SLF001  # what its own stores call
        message, plan.refs, plan.on_demand, plan.full_names, feature_types=plan.feature_types
    )
    names = message.metadata.feature_names.val[before:]
    return {
        name: computed_column([value.SerializeToString() for value in vector.values])
        for name, vector in zip(names, message.results[before:], strict=True)
    }


class Read:
    """A request, ready to be sent as `commands`: one HMGET a hash."""

    def __init__(self, plan: Plan, entity_rows: encoding.EntityRows, project: str) -> None:
        self._given = encoding.columns(entity_rows)
        self._plan = plan
        # Feast's own error where there are no columns
        self._count = {len(column) for column in self._given.values()}.pop()
        # columns of no rows are none
        layout = self._layout = plan.layout(self._given if self._count else ())
        self._keys = {
            column: encoding.encode_column(self._given[column], kind) for column, _, kind in layout.join_keys
        }
        #: rows of each group, and how many hashes are read for them; fewer, if some are the same
        self._rows: list[tuple[list[bytes], int]] = []
        payload = []
        for group in layout.groups:
            hashes = group.keys(self._keys, self._count, project.encode())
            rows = hashes.rows
            if len(set(rows)) < len(rows):
                hashes = hashes._replace(rows=list(dict.fromkeys(rows)))
            self._rows.append((rows, len(hashes.rows)))
            payload.append(group.commands(hashes))
        self.commands = Commands(b"".join(payload), sum(count for _, count in self._rows))

    def answer(self, replies: Sequence[Any], *, view_metadata: bool) -> ColumnarResponse:
        """The response to the request; `replies` are those to `commands`."""
        plan, layout = self._plan, self._layout
        join_keys = [(name, given_column(self._keys[column].values)) for column, name, _ in layout.join_keys]
        stored = self._stored(replies, time.time_ns())
        computed: dict[str, Column] = {}
        if plan.on_demand:
            inputs = [
                (name, given_column(encoding.inputs(self._given[name], kind))) for name, kind in layout.inputs
            ]
            computed = compute_on_demand(plan, join_keys + inputs, stored)
        features = []
        for name, view, index in plan.results:
            if view is not None:
                features.append((name, stored[view][index]))
            elif name in computed:
                features.append((name, computed[name]))
        metadata = _view_metadata(plan) if view_metadata else ()
        return ColumnarResponse(join_keys + features, plan.feature_types, metadata)

    def _stored(self, replies: Sequence[Any], now: int) -> list[list[Column]]:
        """Columns of each stored view."""
        fields, begin = [], 0
        for rows, count in self._rows:
            group = replies[begin : begin + count]
            begin += count
            if count < len(rows):
                known = dict(zip(dict.fromkeys(rows), group, strict=True))
                group = [known[row] for row in rows]
            fields.append(list(zip(*group, strict=True)))
        found = []
        for view, indexes in zip(self._plan.views, self._layout.views, strict=True):
            columns = fields[indexes.group]
            judged = Rows(columns[indexes.stamp], view.ttl, now)
            found.append([judged.column(columns[each]) for each in indexes.features])
            if metrics._config.online_features:  # noqa: SLF001  # Feast's switch
                features = len(indexes.features)
                metrics.track_feature_statuses(
                    view.view.name, judged.present * features, (self._count - judged.present) * features
                )
        return found


def _view_metadata(plan: Plan) -> list[bytes]:
    """Version of each stored view, by the name it goes by."""
    found: dict[str, bytes] = {}
    for stored in plan.views:
        projection = stored.view.projection
        name = projection.name_alias or projection.name
        version = getattr(stored.view, "current_version_number", 0) or 0
        found.setdefault(name, FeatureViewMetadata(name=name, version=version).SerializeToString())
    return list(found.values())

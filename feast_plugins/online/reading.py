"""One request: from entity rows to commands, and from their replies to the answer with on-demand features.

On-demand views in Python mode get decoded columns of their own sources. Views in other modes and with
aggregations are left to Feast's own code.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import struct
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from feast import metrics, utils
from feast.protos.feast.serving.ServingService_pb2 import FeatureViewMetadata
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from feast_plugins.online import answer, keys, protobuf
from feast_plugins.online.answer import ColumnarResponse
from feast_plugins.online.exchange import Commands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from feast import OnDemandFeatureView

    from feast_plugins.online.answer import Column
    from feast_plugins.online.plan import Plan

    Named = list[tuple[str, Column]]


_INT64_VAL, _DOUBLE_VAL = b"\x20", b"\x29"
_INT64 = range(-(1 << 63), 1 << 63)
_UNSIGNED = 1 << 64
_NUMBERS_OR_NONE = ({int}, {int, type(None)})
_FLOATS_OR_NONE = ({float}, {float, type(None)})


def is_python(plan: Plan) -> bool:
    """Whether `transform` computes the plan's on-demand views; Feast's own code does others."""
    return all(view.mode == "python" and not view.aggregations for view in _computed_views(plan))


def _computed_views(plan: Plan) -> list[OnDemandFeatureView]:
    return [view for view in plan.on_demand if not view.write_to_online_store]


def transform(
    plan: Plan, given: Mapping[str, list[Any]], stored: Callable[[int], Mapping[str, list[Any]]]
) -> dict[str, tuple[list[Any], ValueType]]:
    """Outputs of the plan's on-demand views and their types, by their names in the answer.

    `given` are keys and inputs, `stored` gives the values of a stored view by its index in the plan.
    """
    found: dict[str, tuple[list[Any], ValueType]] = {}
    for view in _computed_views(plan):
        started = time.monotonic()
        inputs = dict(given)
        # a view sees its own sources and no other's
        sources = {projection.name for projection in view.source_feature_view_projections.values()}
        for number, each in enumerate(plan.views):
            if each.view.projection.name in sources:
                inputs |= stored(number)
        found |= _features(view, _transform(view, inputs), full_names=plan.full_names)
        if metrics._config.online_features and view.track_metrics:  # noqa: SLF001  # Feast's switch
            metrics.track_transformation(view.name, view.mode, time.monotonic() - started)
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
            name: protobuf.python_values(column.values, kind)
            for name, kind, column in zip(view.names, view.types, stored[number], strict=True)
        }

    known = {name: protobuf.python_values(column.values, None) for name, column in given}
    outputs = transform(plan, known, decoded)
    return {name: answer.computed(encode_outputs(values, kind)) for name, (values, kind) in outputs.items()}


def _transform(view: OnDemandFeatureView, inputs: dict[str, list[Any]]) -> dict[str, Any]:
    """Outputs of the view; one that takes a single row is called for each."""
    if not view.singleton:
        return _called(view, inputs)
    rows = max(map(len, inputs.values()), default=0)
    if rows <= 1:
        return view.transform_dict(inputs)
    outputs = [
        view.transform_dict({name: values[row : row + 1] for name, values in inputs.items()})
        for row in range(rows)
    ]
    return {name: [value for row in outputs for value in _listed(row[name])] for name in outputs[0]}


def _called(view: OnDemandFeatureView, inputs: dict[str, list[Any]]) -> dict[str, Any]:
    """What the view's `transform_dict` gives, without the checks of types at run time around each step of it.

    They take several times as long as a view like that of the calendar.
    """
    both = dict(inputs)
    added = []
    for source in view.source_feature_view_projections.values():
        for feature in source.features:
            full = f"{source.name}__{feature.name}"
            # a function may use either name
            given, other = (full, feature.name) if full in inputs else (feature.name, full)
            if given in inputs:
                both[other] = inputs[given]
                added.append(other)
    transformation: Any = view.feature_transformation
    outputs: dict[str, Any] = both | transformation.udf(both)
    for name in added:
        outputs.pop(name, None)
    return outputs


def _features(
    view: OnDemandFeatureView, outputs: dict[str, Any], *, full_names: bool
) -> dict[str, tuple[list[Any], ValueType]]:
    used = view.projection.name_to_use()
    found = {}
    for field in view.features:
        full = f"{used}__{field.name}"
        name = full if full in outputs else field.name
        if name in outputs:
            kind = field.dtype.to_value_type()
            found[full if full_names else field.name] = _listed(outputs[name]), kind
    return found


def _listed(output: Any) -> list[Any]:
    return output if isinstance(output, list) else [output]


def encode_outputs(values: Sequence[Any], kind: ValueType) -> list[bytes]:
    """Each value as a serialized `Value`, the same that Feast's own conversion gives."""
    types = set(map(type, values))
    different = set(values) if types in _NUMBERS_OR_NONE or types in _FLOATS_OR_NONE else set()
    if kind == ValueType.INT64 and types in _NUMBERS_OR_NONE and all(_fits(number) for number in different):
        known = {
            number: b"" if number is None else _INT64_VAL + protobuf.varint(number % _UNSIGNED)
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
    return protobuf.python_values(encode_outputs(values, kind), kind)


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
        name: answer.computed([value.SerializeToString() for value in vector.values])
        for name, vector in zip(names, message.results[before:], strict=True)
    }


class Read:
    """A request, ready to be sent as `commands`: one HMGET a hash."""

    def __init__(self, plan: Plan, entity_rows: keys.EntityRows, project: str) -> None:
        self._given = keys.columns(entity_rows)
        self._plan = plan
        # Feast's own error where there are no columns
        self._count = {len(column) for column in self._given.values()}.pop()
        # columns of no rows are none
        layout = self._layout = plan.layout(self._given if self._count else ())
        self._keys = {
            column: keys.encode_column(self._given[column], kind) for column, _, kind in layout.join_keys
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
        join_keys = [(name, answer.given(self._keys[column].values)) for column, name, _ in layout.join_keys]
        stored = self._stored(replies, time.time_ns())
        computed: dict[str, Column] = {}
        if plan.on_demand:
            inputs = [
                (name, answer.given(keys.inputs(self._given[name], kind))) for name, kind in layout.inputs
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
            judged = answer.Rows(columns[indexes.stamp], view.ttl, now)
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

"""On-demand features, computed from columns.

Views in Python mode get decoded columns of their own sources. Views in other modes and with aggregations are
left to Feast's own code.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any

from feast import metrics, utils
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from feast_plugins.online import answer, decode, wire
from feast_plugins.online.response import ColumnarResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import OnDemandFeatureView

    from feast_plugins.online.answer import Column
    from feast_plugins.online.plan import Plan

    Named = list[tuple[str, Column]]

_INT64_VAL, _DOUBLE_VAL = b"\x20", b"\x29"
_INT64 = range(-(1 << 63), 1 << 63)
_UNSIGNED = 1 << 64
_NUMBERS_OR_NONE = ({int}, {int, type(None)})
_FLOATS_OR_NONE = ({float}, {float, type(None)})


def compute(plan: Plan, given: Named, stored: Sequence[Sequence[Column]]) -> dict[str, Column]:
    """Features of the plan's on-demand views by their names in the answer.

    `given` are keys and inputs, `stored` the columns of each stored view of the plan.
    """
    views = [view for view in plan.on_demand if not view.write_to_online_store]
    if any(view.mode != "python" or view.aggregations for view in views):
        return _computed_by_feast(plan, given, stored)
    known = {name: decode.python_values(column.values, None) for name, column in given}
    decoded: dict[int, dict[str, list[Any]]] = {}
    found: dict[str, Column] = {}
    for view in views:
        started = time.monotonic()
        inputs = dict(known)
        # a view sees its own sources and no other's
        sources = {projection.name for projection in view.source_feature_view_projections.values()}
        for number, each in enumerate(plan.views):
            if each.view.projection.name in sources:
                if number not in decoded:
                    decoded[number] = {
                        name: decode.python_values(column.values, kind)
                        for name, kind, column in zip(each.names, each.types, stored[number], strict=True)
                    }
                inputs |= decoded[number]
        found |= _features(view, _transform(view, inputs), full_names=plan.full_names)
        if metrics._config.online_features and view.track_metrics:  # noqa: SLF001  # Feast's switch
            metrics.track_transformation(view.name, view.mode, time.monotonic() - started)
    return found


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


def _features(view: OnDemandFeatureView, outputs: dict[str, Any], *, full_names: bool) -> dict[str, Column]:
    used = view.projection.name_to_use()
    found = {}
    for field in view.features:
        full = f"{used}__{field.name}"
        name = full if full in outputs else field.name
        if name in outputs:
            values = encode(_listed(outputs[name]), field.dtype.to_value_type())
            found[full if full_names else field.name] = answer.computed(values)
    return found


def _listed(output: Any) -> list[Any]:
    return output if isinstance(output, list) else [output]


def encode(values: Sequence[Any], kind: ValueType) -> list[bytes]:
    """Each value as a serialized `Value`, the same that Feast's own conversion gives."""
    types = set(map(type, values))
    different = set(values) if types in _NUMBERS_OR_NONE or types in _FLOATS_OR_NONE else set()
    if kind == ValueType.INT64 and types in _NUMBERS_OR_NONE and all(_fits(number) for number in different):
        known = {
            number: b"" if number is None else _INT64_VAL + wire.varint(number % _UNSIGNED)
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

"""A response as the JSON that Feast's feature server sends, made from columns."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from feast.feature_server_utils import _float_to_native, _timestamp_to_str, _value_to_native
from feast.protos.feast.serving.ServingService_pb2 import FeatureViewMetadata, FieldStatus
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from feast_plugins.online import decode
from feast_plugins.online.answer import PRESENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast_plugins.online.answer import Column
    from feast_plugins.online.response import ColumnarResponse

_STATUS_NAMES = {value.number: value.name for value in FieldStatus.DESCRIPTOR.values}
_PRESENT_NAME = f'"{_STATUS_NAMES[PRESENT]}"'
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def body(response: ColumnarResponse) -> bytes:
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
    found = decode.plain_values(values)
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

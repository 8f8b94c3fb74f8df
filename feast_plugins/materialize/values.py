"""Feature values of a column as serialized `feast.types.Value` messages.

The common scalar types are encoded as whole columns, by the Protocol Buffers wire format
(protobuf.dev/programming-guides/encoding). A `Value` holds one field of a `oneof`, which is written even when
it is zero or empty; a null is an empty message. What is null is as in `feast.type_map`, which encodes all
other types, one value at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values

from feast_plugins.materialize.ragged import BINARY, by_length, offsets_of, pack, tagged_varints, varint

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from feast_plugins.materialize.ragged import Pieces

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_INT32_MAX = (1 << 31) - 1


def encode(column: pa.Array, value_type: ValueType) -> Pieces:
    """Serialized `Value` of each row.

    Raises:
        TypeError, ValueError, AssertionError: Feast refuses a value for this type, too.
    """
    vectorised = _VECTORISED.get((value_type, column.type))
    if vectorised is not None and not _is_out_of_range(column, value_type):
        return vectorised(column)
    if pa.types.is_list(column.type) and pa.types.is_timestamp(column.type.value_type):
        column = column.cast(pa.list_(pa.timestamp("us")))  # Feast counts in UTC without saying so
    values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
    return (pa.array([value.SerializeToString() for value in values], BINARY),)


def _is_out_of_range(column: pa.Array, value_type: ValueType) -> bool:
    if value_type is not ValueType.INT32 or column.type == pa.int32():
        return False
    bounds = pc.min_max(column).as_py()
    return bounds["min"] is not None and (bounds["min"] < -_INT32_MAX - 1 or bounds["max"] > _INT32_MAX)


def _tag(field: str, wire: int) -> bytes:
    return varint(Value.DESCRIPTOR.fields_by_name[field].number << 3 | wire)


def _nulls(column: pa.Array) -> NDArray[np.bool_] | None:
    nulls = pc.is_null(column, nan_is_null=True)
    return nulls.to_numpy(zero_copy_only=False) if pc.any(nulls).as_py() else None


def _numbers(column: pa.Array, kind: str) -> NDArray[Any]:
    filled = column.fill_null(pa.scalar(0).cast(column.type)) if column.null_count else column
    with np.errstate(over="ignore"):  # to infinity, as in Protocol Buffers
        return np.asarray(filled.to_numpy(zero_copy_only=False)).astype(kind)


def _fixed(field: str, wire: int, kind: str) -> Callable[[pa.Array], Pieces]:
    tag = _tag(field, wire)

    def encode_fixed(column: pa.Array) -> Pieces:
        values = np.ascontiguousarray(_numbers(column, kind))
        rows, width = len(values), len(tag) + values.itemsize
        matrix = np.empty((rows, width), np.uint8)
        matrix[:, : len(tag)] = np.frombuffer(tag, np.uint8)
        matrix[:, len(tag) :] = values.view(np.uint8).reshape(rows, values.itemsize)
        nulls = _nulls(column)
        return (pack(matrix, None if nulls is None else np.where(nulls, 0, width)),)

    return encode_fixed


def _integers(field: str) -> Callable[[pa.Array], Pieces]:
    tag = _tag(field, _VARINT)
    return lambda column: (tagged_varints(tag, _numbers(column, "int64"), _nulls(column)),)


def _seconds(column: pa.Array) -> Pieces:
    # a missing time is the least number, which Feast reads as null
    seconds = column.to_numpy(zero_copy_only=False).astype("datetime64[s]").astype(np.int64)
    return (tagged_varints(_tag("unix_timestamp_val", _VARINT), seconds),)


def _texts(field: str) -> Callable[[pa.Array], Pieces]:
    tag = _tag(field, _LENGTH)

    def encode_texts(column: pa.Array) -> Pieces:
        body = column.cast(BINARY)
        lengths = np.diff(offsets_of(body)).astype(np.int64)
        if body.null_count:
            lengths[body.is_null().to_numpy(zero_copy_only=False)] = -1
            body = body.fill_null(b"")
        return by_length(lengths, lambda length: b"" if length < 0 else tag + varint(length)), body

    return encode_texts


_DOUBLE = _fixed("double_val", _EIGHT_BYTES, "<f8")
_FLOAT = _fixed("float_val", _FOUR_BYTES, "<f4")
_INT32 = _integers("int32_val")
_INT64 = _integers("int64_val")
#: By type of the feature and of the column. Where Feast refuses the pair, so does the slow way.
_VECTORISED: dict[tuple[ValueType, pa.DataType], Callable[[pa.Array], Pieces]] = {
    (ValueType.DOUBLE, pa.float64()): _DOUBLE,
    (ValueType.FLOAT, pa.float32()): _FLOAT,
    (ValueType.FLOAT, pa.float64()): _FLOAT,
    (ValueType.INT32, pa.int32()): _INT32,
    (ValueType.INT32, pa.int64()): _INT32,
    (ValueType.INT64, pa.int32()): _INT64,
    (ValueType.INT64, pa.int64()): _INT64,
    (ValueType.BOOL, pa.bool_()): _integers("bool_val"),
    (ValueType.STRING, pa.string()): _texts("string_val"),
    (ValueType.BYTES, pa.binary()): _texts("bytes_val"),
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us")): _seconds,
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us", tz="UTC")): _seconds,
}

"""Values, event times and Redis keys as columns of bytes, equal to those that Feast's own store writes.

The common scalar types are encoded as whole columns, by the Protocol Buffers wire format
(protobuf.dev/programming-guides/encoding). A `Value` holds one field of a `oneof`, which is written even when
it is zero or empty; a null is an empty message. Nulls are those of `feast.type_map`, which encodes all other
types, one value at a time.

Keys are those of `feast.infra.key_encoding_utils.serialize_entity_key`, version 3: the number of join keys,
their names in order of the alphabet, then in the same order the type, length and bytes of each value, then
the project. Numbers are little-endian; lengths and types take four bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import ValueType
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Pieces = tuple[pa.BinaryArray | pa.BinaryScalar, ...]
    from collections.abc import Mapping, Sequence


BINARY = pa.binary()
_VARINT_BYTES = 10
_VARINT_BITS = 7


def constant(value: bytes) -> pa.BinaryScalar:
    """The same bytes in every row."""
    return pa.scalar(value, BINARY)


def pack(matrix: NDArray[np.uint8], lengths: NDArray[np.int64] | None = None) -> pa.BinaryArray:
    """Variable-length bytes: the first `lengths[i]` bytes of row i of `matrix`; all bytes without lengths."""
    rows, width = matrix.shape
    if lengths is None:
        ends = np.arange(1, rows + 1, dtype=np.int64) * width
        data = matrix.ravel()
    else:
        ends = np.cumsum(lengths)
        data = matrix[np.arange(width) < lengths[:, None]]
    offsets = np.zeros(rows + 1, np.int32)
    offsets[1:] = ends
    return pa.Array.from_buffers(BINARY, rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def varint(value: int) -> bytes:
    """Protocol Buffers' base 128 varint of a number >= 0."""
    out = bytearray()
    while value >= 1 << _VARINT_BITS:
        out.append(value & 0x7F | 0x80)
        value >>= _VARINT_BITS
    out.append(value)
    return bytes(out)


def varints(values: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Varints of the values as rows of a matrix, and their lengths in bytes; negative values take ten."""
    unsigned = values.view(np.uint64)
    lengths = np.ones(len(values), np.int64)
    for index in range(1, _VARINT_BYTES):
        lengths += unsigned >= np.uint64(1 << (_VARINT_BITS * index))
    width = int(lengths.max(initial=1))
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(_VARINT_BITS)
    matrix: NDArray[np.uint8] = (unsigned[:, None] >> shifts).astype(np.uint8)
    matrix &= 0x7F
    matrix[np.arange(width) < lengths[:, None] - 1] |= 0x80
    return matrix, lengths


def tagged_varints(
    tag: bytes, values: NDArray[np.int64], absent: NDArray[np.bool_] | None = None
) -> pa.BinaryArray:
    """`tag` and the varint of each value; no bytes where it is absent."""
    digits, lengths = varints(values)
    matrix = np.empty((len(values), len(tag) + digits.shape[1]), np.uint8)
    matrix[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    matrix[:, len(tag) :] = digits
    lengths += len(tag)
    if absent is not None:
        lengths[absent] = 0
    return pack(matrix, lengths)


def by_length(lengths: NDArray[np.int64], make: Callable[[int], bytes]) -> pa.BinaryArray:
    """`make(length)` of each row, called once per distinct length."""
    encoded = pa.array(lengths).dictionary_encode()
    return pa.array([make(length) for length in encoded.dictionary.to_pylist()], BINARY).take(encoded.indices)


def lengths_of(pieces: Pieces) -> NDArray[np.int64]:
    """Total bytes per row of `pieces`, at least one of which is an array."""
    total: NDArray[np.int64] | np.int64 = np.int64(0)
    for piece in pieces:
        if isinstance(piece, pa.Scalar):
            total = total + len(piece.as_py())
        else:
            total = total + np.diff(offsets_of(piece)).astype(np.int64)
    return np.asarray(total)


def offsets_of(array: pa.BinaryArray) -> NDArray[np.int32]:
    """Offsets of the rows in the data buffer, and the end of the last."""
    offsets = np.frombuffer(array.buffers()[1], np.int32)
    return offsets[array.offset : array.offset + len(array) + 1]


def data_of(array: pa.BinaryArray) -> memoryview:
    """The bytes of all rows, concatenated."""
    if not len(array):
        return memoryview(b"")
    offsets = offsets_of(array)
    return memoryview(array.buffers()[2])[offsets[0] : offsets[-1]]


_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_INT32_MAX = (1 << 31) - 1


def encode_values(column: pa.Array, value_type: ValueType) -> Pieces:
    """Serialized `Value` of each row.

    Raises:
        TypeError, ValueError, AssertionError: a value that Feast refuses for this type, too.
    """
    vectorised = _VECTORISED.get((value_type, column.type))
    if vectorised is not None and not _is_out_of_range(column, value_type):
        return vectorised(column)
    if pa.types.is_list(column.type) and pa.types.is_timestamp(column.type.value_type):
        column = column.cast(pa.list_(pa.timestamp("us")))  # Feast's naive times are UTC
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
    # a missing time is the least int64, which Feast reads as null
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


def _double_lists(column: pa.ListArray) -> Pieces:
    """Lists without null of the same length, as views with a horizon have; others one at a time."""
    lengths = np.diff(column.offsets.to_numpy())
    items = column.flatten()
    if (
        not len(column)
        or column.null_count
        or items.null_count
        or np.any(lengths != lengths[0])
        or not lengths[0]
    ):
        values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), ValueType.DOUBLE_LIST)
        return (pa.array([value.SerializeToString() for value in values], BINARY),)
    body = np.ascontiguousarray(items.to_numpy(zero_copy_only=False).astype("<f8"))
    packed = _LIST_TAG + varint(8 * int(lengths[0]))
    head = _tag("double_list_val", _LENGTH) + varint(len(packed) + 8 * int(lengths[0])) + packed
    return constant(head), pack(body.view(np.uint8).reshape(len(column), -1))


#: Field 1 of a list, packed.
_LIST_TAG = b"\x0a"
_DOUBLE = _fixed("double_val", _EIGHT_BYTES, "<f8")
_FLOAT = _fixed("float_val", _FOUR_BYTES, "<f4")
_INT32 = _integers("int32_val")
_INT64 = _integers("int64_val")
#: By types of feature and column. Other pairs are encoded, or refused, by Feast.
_VECTORISED: dict[tuple[ValueType, pa.DataType], Callable[[pa.Array], Pieces]] = {
    (ValueType.DOUBLE, pa.float64()): _DOUBLE,
    (ValueType.DOUBLE_LIST, pa.list_(pa.float64())): _double_lists,
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


_SECONDS_TAG, _NANOS_TAG = b"\x08", b"\x10"  # fields 1 and 2, both varints; a zero is left out
_MICROS = 1_000_000


def micros(column: pa.Array) -> NDArray[np.int64]:
    """Microseconds since 1970 (UTC) of a column of timestamps."""
    return np.asarray(column.to_numpy(zero_copy_only=False).astype("datetime64[us]").astype(np.int64))


def encode_times(times: NDArray[np.int64]) -> Pieces:
    """Serialized `Timestamp` of each time in microseconds since 1970."""
    seconds, rest = np.divmod(times, _MICROS)
    return (
        tagged_varints(_SECONDS_TAG, seconds, seconds == 0),
        tagged_varints(_NANOS_TAG, rest * 1000, rest == 0),
    )


def is_current(times: NDArray[np.int64], stored: Sequence[bytes | None], *, equal: bool) -> NDArray[np.bool_]:
    """Whether each time (µs since 1970) is newer than the stored `Timestamp` message, or the same if `equal`.

    Every time is newer than None.
    """
    first_current: dict[bytes | None, int] = {None: np.iinfo(np.int64).min}
    for message in set(stored) - {None}:
        stamp = Timestamp()
        stamp.ParseFromString(message)
        nanos = int(stamp.ToNanoseconds())
        # stored times have nanoseconds: the first microsecond that is newer
        first_current[message] = -(-nanos // 1000) if equal else nanos // 1000 + 1
    limits = np.fromiter((first_current[message] for message in stored), np.int64, len(stored))
    return np.asarray(times >= limits)


#: Column types whose distinct values have distinct keys, by declared type of the join key.
_EXACT = {
    ValueType.STRING: {pa.string()},
    ValueType.BYTES: {pa.binary()},
    ValueType.INT32: {pa.int32()},
    ValueType.INT64: {pa.int32(), pa.int64()},
}
_NUMBERS = {ValueType.INT32: "<i4", ValueType.INT64: "<i8"}


def is_exact(value_type: ValueType, kind: pa.DataType) -> bool:
    """Whether distinct values of a column of `kind` have distinct keys."""
    return kind in _EXACT.get(value_type, ())


def encode_keys(columns: Mapping[str, tuple[pa.Array, ValueType]], project: str) -> Pieces:
    """Redis key of each row; `columns` has the column and type by join key.

    Raises:
        ValueError: a join key is NULL, which no request can name.
    """
    names = sorted(columns)
    pieces: list[pa.BinaryArray | pa.BinaryScalar] = [constant(serialize_entity_key_prefix(names))]
    for name in names:
        column, value_type = columns[name]
        if column.null_count:
            raise ValueError(f"Join key {name} is NULL in {column.null_count} rows; an entity has a value.")
        kind = struct.pack("<I", value_type.value)
        if value_type in _NUMBERS:
            values = column.to_numpy().astype(_NUMBERS[value_type])
            pieces.append(constant(kind + struct.pack("<I", values.itemsize)))
            pieces.append(pack(values.view(np.uint8).reshape(len(values), values.itemsize)))
        else:
            body = column.cast(BINARY)
            lengths = np.diff(offsets_of(body)).astype("<u4")
            pieces += [constant(kind), pack(lengths.view(np.uint8).reshape(len(lengths), 4)), body]
    pieces.append(constant(project.encode()))
    return tuple(pieces)

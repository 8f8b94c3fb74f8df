"""Columns of entity rows: each value as a part of keys, and as a value of the answer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from feast.infra.key_encoding_utils import _serialize_val
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from feast_plugins.online import keys, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from feast.protos.feast.types.Value_pb2 import RepeatedValue
    from feast.protos.feast.types.Value_pb2 import Value as ValueProto

    EntityRows = list[dict[str, Any]] | Mapping[str, Sequence[Any] | RepeatedValue]

_PAIR = struct.Struct("<II")
_STRING_VAL = wire.Field(2)
_INT32_TAG, _INT64_TAG = b"\x18", b"\x20"
_UNSIGNED = 1 << 64


class EntityColumn(NamedTuple):
    """Values of one join key."""

    #: serialized `Value` of each row
    values: Sequence[bytes]
    #: part of the key of each row; a single one: it is that of all rows
    parts: Sequence[bytes]


def columns(rows: EntityRows) -> dict[str, Sequence[Any]]:
    """The rows by column.

    Raises:
        ValueError: rows or columns differ in what they have.
    """
    if isinstance(rows, list):
        return _from_rows(rows)
    found: dict[str, Sequence[Any]] = {
        name: given if isinstance(given, list) else _listed(given) for name, given in rows.items()
    }
    if len({len(column) for column in found.values()}) > 1:
        raise ValueError("All entity rows must have the same columns.")
    return found


def _from_rows(rows: list[dict[str, Any]]) -> dict[str, Sequence[Any]]:
    names = rows[0].keys()
    if len(set(map(len, rows))) == 1:
        try:
            return {name: [row[name] for row in rows] for name in names}
        except KeyError:
            pass
    if any(row.keys() - names for row in rows):
        raise ValueError("All entity_rows must have the same keys.")
    raise ValueError("All entity rows must have the same columns.")


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Sequence) else list(given.val)


def encode(values: Sequence[Any], kind: ValueType) -> EntityColumn:
    """A column of join keys; what Feast's own conversion refuses is refused the same way."""
    if len(values) > 1 and values.count(values[0]) == len(values) and set(map(type, values)) == {str}:
        text, part_of_all = encode(values[:1], kind)
        return EntityColumn(list(text) * len(values), part_of_all)
    types = set(map(type, values))
    if types == {str} and kind in _TEXT:
        texts = [text.encode() for text in values]
        return EntityColumn([_STRING_VAL[len(text)] + text for text in texts], keys.string_parts(texts))
    if types == {int} and kind in _NUMBERS:
        tag, number_part = _NUMBERS[kind]
        try:
            parts = [number_part(number) for number in values]
        except struct.error:
            pass  # out of range: Feast's error says so
        else:
            return EntityColumn([tag + wire.varint(number % _UNSIGNED) for number in values], parts)
    protos = python_values_to_proto_values(list(values), kind)
    return EntityColumn([proto.SerializeToString() for proto in protos], [part(proto) for proto in protos])


def inputs(values: Sequence[Any], kind: ValueType) -> list[bytes]:
    """A column of inputs of on-demand views as serialized values."""
    return [proto.SerializeToString() for proto in python_values_to_proto_values(list(values), kind)]


def part(proto: ValueProto) -> bytes:
    """A value inside a key; types that Feast has no keys of are refused as Feast does."""
    kind = proto.WhichOneof("val")
    if kind is None:
        raise TypeError("A join key has no value in one of the entity rows.")
    value, number = _serialize_val(kind, proto, keys.SERIALIZATION_VERSION)
    return _PAIR.pack(number, len(value)) + value


_TEXT = frozenset({ValueType.STRING, ValueType.UNKNOWN})
_NUMBERS: dict[ValueType, tuple[bytes, Callable[[int], bytes]]] = {
    ValueType.INT64: (_INT64_TAG, keys.int64_part),
    ValueType.UNKNOWN: (_INT64_TAG, keys.int64_part),
    ValueType.INT32: (_INT32_TAG, keys.int32_part),
}

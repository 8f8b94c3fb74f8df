"""Feast's values and keys as bytes, put together and taken apart, many at a time.

Redis holds serialized values, and a response is made of them: joining bytes and parsing the whole once takes
a tenth of the time of making a message of each value. https://protobuf.dev/programming-guides/encoding/

Keys are as Feast's store writes them, in version 3 of its serialization: the number of join keys, each join
key's name, each value with type and length, names and values in the order of the names; then the name of the
project, with nothing between. Every length is given, so where the project begins can be told exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from feast.feature_view import DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import _serialize_val, serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import Int64List, RepeatedValue, StringList
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from feast import RepoConfig
    from feast.protos.feast.types.Value_pb2 import Value as ValueProto

    EntityRows = list[dict[str, Any]] | Mapping[str, Sequence[Any] | RepeatedValue]


_REMEMBERED = 4096


def varint(number: int) -> bytes:
    """Bytes of a number that is not negative, seven bits each, the lowest first."""
    found = bytearray()
    while number > 0x7F:  # noqa: PLR2004  # seven bits
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


class Field(dict[int, bytes]):
    """What precedes an embedded message or a string in field `number`, by its length."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._tag = varint(number << 3 | 2)

    def __missing__(self, length: int) -> bytes:
        found = self._tag + varint(length)
        if length < _REMEMBERED:
            self[length] = found
        return found

    def one(self, item: bytes) -> bytes:
        """The field with one element."""
        return self[len(item)] + item

    def all(self, items: Sequence[bytes]) -> bytes:
        """The repeated field with these elements."""
        lengths = set(map(len, items))
        if len(lengths) == 1:  # most often: numbers
            prefix = self[lengths.pop()]
            return prefix + prefix.join(items)
        return b"".join([self[len(item)] + item for item in items])


_DOUBLE_VAL, _INT64_VAL, _STRING_VAL = 0x29, 0x20, 0x12
_DOUBLE_LENGTH = 9
_DOUBLE_TAG = b"\x29"
_DOUBLE = struct.Struct("<xd")
_ELEMENT = Field(1)
_ELEMENT_TAG = b"\x0a"
#: An older form of these types is a string, told by the type alone.
_TOLD_BY_TYPE = frozenset({ValueType.UUID, ValueType.TIME_UUID})


def python_values(values: Sequence[bytes], kind: ValueType | None) -> list[Any]:
    """Value of each serialized `Value`; `kind`: type of the feature, if it is known."""
    found = None if kind in _TOLD_BY_TYPE else plain_values(values)
    if found is not None:
        return found
    protos = RepeatedValue.FromString(_ELEMENT.all(values)).val
    return [feast_value_type_to_python_type(proto, kind) for proto in protos]


def plain_values(values: Sequence[bytes]) -> list[Any] | None:
    """Values of a column of 64-bit numbers or strings, with None where there is none; None: another type."""
    there = [value for value in values if value] if b"" in values else values
    found = _decode(there)
    if there is values or found is None:
        return found
    rest = iter(found)
    return [next(rest) if value else None for value in values]


def _decode(values: Sequence[bytes]) -> list[Any] | None:
    if len(values) == 1 and len(values[0]) == _DOUBLE_LENGTH and values[0][0] == _DOUBLE_VAL:
        return list(_DOUBLE.unpack(values[0]))  # one row, as most requests ask for
    tags = {value[0] for value in values}
    if not tags:
        return []
    if len(tags) > 1:
        return None
    (tag,) = tags
    found: list[Any] = []
    if tag == _DOUBLE_VAL and set(map(len, values)) == {_DOUBLE_LENGTH}:
        found = list(struct.unpack("<" + "xd" * len(values), b"".join(values)))
    elif tag == _INT64_VAL:
        # the bytes after the tags are those of a packed list
        found = list(Int64List.FromString(_ELEMENT.one(b"".join([value[1:] for value in values]))).val)
    elif tag == _STRING_VAL:
        found = list(StringList.FromString(b"".join([_ELEMENT_TAG + value[1:] for value in values])).val)
    return found if len(found) == len(values) else None


def doubles(rows: Sequence[Sequence[bytes]]) -> list[tuple[float | None, ...]] | None:
    """Rows of serialized `Value`s, all of them 64-bit floating-point numbers or empty; else None."""
    joined = b"".join(map(b"".join, rows))
    count = len(joined) // _DOUBLE_LENGTH
    # the first has this tag, so it is so long, so the next one begins there
    if joined[::_DOUBLE_LENGTH] != _DOUBLE_TAG * count or len(joined) != _DOUBLE_LENGTH * count:
        return None
    width = len(rows[0])
    if count == width * len(rows) and width:
        return list(_doubles(width).iter_unpack(joined))
    numbers = iter(_doubles(count).unpack(joined))
    return [tuple([next(numbers) if value else None for value in row]) for row in rows]


@lru_cache(maxsize=1024)
def _doubles(count: int) -> struct.Struct:
    return struct.Struct("<" + "xd" * count)


def seconds(stamps: Sequence[bytes]) -> list[int]:
    """Seconds since 1970 of serialized times."""
    known = {stamp: Timestamp.FromString(stamp).seconds for stamp in set(stamps)}
    return [known[stamp] for stamp in stamps]


SERIALIZATION_VERSION = 3
_NUMBER = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_STRING: int = ValueType.STRING.value
_INT32 = _PAIR.pack(ValueType.INT32.value, 4)
_INT64 = _PAIR.pack(ValueType.INT64.value, 8)
#: What Redis takes for a pattern in MATCH.
_SPECIAL = frozenset(b"*?[]\\")


class NotOurKeyError(ValueError):
    """The bytes are no key of a Feast entity."""


def require_version(config: RepoConfig) -> None:
    """Make sure that keys are serialized the one way that this module knows.

    Raises:
        ValueError: they are not.
    """
    if (version := config.entity_key_serialization_version) != SERIALIZATION_VERSION:
        raise ValueError(
            f"entity_key_serialization_version: {version} is not supported by this online store, "
            f"{SERIALIZATION_VERSION} is. See Feast's guide to the reserialization of entities."
        )


class _StringPrefixes(dict[int, bytes]):
    """What precedes a string inside a key, by its length."""

    def __missing__(self, length: int) -> bytes:
        found = _PAIR.pack(_STRING, length)
        if length < _REMEMBERED:
            self[length] = found
        return found


_STRING_PREFIXES = _StringPrefixes()


def string_parts(texts: Iterable[bytes]) -> list[bytes]:
    """String values inside keys; `texts` in UTF-8."""
    return [_STRING_PREFIXES[len(text)] + text for text in texts]


def int32_part(number: int) -> bytes:
    """A 32-bit number inside a key; raises `struct.error` out of range."""
    return _INT32 + struct.pack("<i", number)


def int64_part(number: int) -> bytes:
    """A 64-bit number inside a key; raises `struct.error` out of range."""
    return _INT64 + struct.pack("<q", number)


def prefix(join_keys: Iterable[str]) -> bytes:
    """What precedes the values in every key of these join keys."""
    return bytes(serialize_entity_key_prefix(list(join_keys)))


def parse(key: bytes) -> tuple[tuple[str, ...], str]:
    """Join keys, sorted, and project of a key.

    Raises:
        NotOurKeyError: it is none.
    """
    values, project = take_apart(key)
    return tuple(values), project


def take_apart(key: bytes) -> tuple[dict[str, bytes], str]:
    """The value of each join key, as the key has it, in the order of their names; and the project.

    Raises:
        NotOurKeyError: it is none.
    """
    try:
        (count,) = _NUMBER.unpack_from(key)
        position = _NUMBER.size
        names = []
        for _ in range(count):
            kind, length = _PAIR.unpack_from(key, position)
            position += _PAIR.size
            if kind != _STRING or position + length > len(key):
                raise NotOurKeyError(key)
            names.append(key[position : position + length].decode())
            position += length
        values = {}
        for name in names:
            _, length = _PAIR.unpack_from(key, position)
            position += _PAIR.size
            values[name] = key[position : position + length]
            position += length
        if position > len(key):
            raise NotOurKeyError(key)
        return values, key[position:].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise NotOurKeyError(key) from error


def pattern(join_keys: Iterable[str], project: str) -> bytes:
    """Pattern for SCAN that every key of these join keys and project matches, and some others do, too."""
    return _escape(prefix(join_keys)) + b"*" + _escape(project.encode())


def _escape(text: bytes) -> bytes:
    return b"".join([b"\\%c" % byte if byte in _SPECIAL else b"%c" % byte for byte in text])


_STRING_FIELD = Field(2)
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


def encode_column(values: Sequence[Any], kind: ValueType) -> EntityColumn:
    """A column of join keys; what Feast's own conversion refuses is refused the same way."""
    if len(values) > 1 and values.count(values[0]) == len(values) and set(map(type, values)) == {str}:
        text, part_of_all = encode_column(values[:1], kind)
        return EntityColumn(list(text) * len(values), part_of_all)
    types = set(map(type, values))
    if types == {str} and kind in _TEXT:
        texts = [text.encode() for text in values]
        return EntityColumn([_STRING_FIELD[len(text)] + text for text in texts], string_parts(texts))
    if types == {int} and kind in _NUMBERS:
        tag, number_part = _NUMBERS[kind]
        try:
            parts = [number_part(number) for number in values]
        except struct.error:
            pass  # out of range: Feast's error says so
        else:
            return EntityColumn([tag + varint(number % _UNSIGNED) for number in values], parts)
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
    value, number = _serialize_val(kind, proto, SERIALIZATION_VERSION)
    return _PAIR.pack(number, len(value)) + value


_TEXT = frozenset({ValueType.STRING, ValueType.UNKNOWN})
_NUMBERS: dict[ValueType, tuple[bytes, Callable[[int], bytes]]] = {
    ValueType.INT64: (_INT64_TAG, int64_part),
    ValueType.UNKNOWN: (_INT64_TAG, int64_part),
    ValueType.INT32: (_INT32_TAG, int32_part),
}


(_DUMMY,) = string_parts([DUMMY_ENTITY_VAL.encode()])


@dataclass(frozen=True)
class KeyGroup:
    """Views whose rows are in the same hashes: one HMGET an entity reads them all."""

    #: what precedes the values in each key
    prefix: bytes
    #: column of the values of each join key, in the order of the join keys; None: there is no entity
    columns: list[str | None]
    fields: list[bytes]

    def keys(self, columns: Mapping[str, EntityColumn], count: int, project: bytes) -> Keys:
        """Key of each row."""
        prefix, rows = self.prefix, [b""] * count
        is_first = True
        for name in self.columns:
            parts = [_DUMMY] if name is None else columns[name].parts
            if len(parts) < count and is_first:  # the same in all rows
                prefix += parts[0]
            elif is_first:
                rows, is_first = list(parts), False
            elif len(parts) < count:
                rows = [row + parts[0] for row in rows]
            else:
                rows = list(map(add, rows, parts))
        return Keys(prefix, rows, project)

    @cached_property
    def _around_key(self) -> tuple[bytes, bytes]:
        return (
            b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(self.fields)),
            b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in self.fields]),
        )

    def commands(self, keys: Keys) -> bytes:
        """HMGET of each hash, in the protocol of Redis."""
        head, tail = self._around_key
        tail = keys.suffix + tail
        beside = len(keys.prefix) + len(keys.suffix)
        lengths = set(map(len, keys.rows))
        if len(lengths) == 1:
            head = b"%b%d\r\n%b" % (head, beside + lengths.pop(), keys.prefix)
            return b"%b%b%b" % (head, (tail + head).join(keys.rows), tail)
        middle = b"\r\n" + keys.prefix
        return b"".join([b"%b%d%b%b%b" % (head, beside + len(row), middle, row, tail) for row in keys.rows])


class Keys(NamedTuple):
    """Keys that differ in the middle."""

    prefix: bytes
    rows: list[bytes]
    suffix: bytes

"""Protocol buffers as bytes: put together, and decoded many at a time.

Redis holds serialized values, and a response is made of them: joining bytes and parsing the whole once takes
a tenth of the time of making a message of each value. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from feast.protos.feast.types.Value_pb2 import Int64List, RepeatedValue, StringList
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def seconds(stamps: Sequence[bytes]) -> list[int]:
    """Seconds since 1970 of serialized times."""
    known = {stamp: Timestamp.FromString(stamp).seconds for stamp in set(stamps)}
    return [known[stamp] for stamp in stamps]

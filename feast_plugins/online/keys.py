"""Keys of Redis, as Feast's store writes them, taken apart and put together.

Version 3 of Feast's serialization: the number of join keys, each join key's name, each value with type and
length, names and values in the order of the names; then the name of the project, with nothing between. Every
length is given, so where the project begins can be told exactly.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.value_type import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from feast import RepoConfig

SERIALIZATION_VERSION = 3
_NUMBER = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_STRING: int = ValueType.STRING.value
_INT32 = _PAIR.pack(ValueType.INT32.value, 4)
_INT64 = _PAIR.pack(ValueType.INT64.value, 8)
_REMEMBERED = 4096
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
        place = _NUMBER.size
        names = []
        for _ in range(count):
            kind, length = _PAIR.unpack_from(key, place)
            place += _PAIR.size
            if kind != _STRING or place + length > len(key):
                raise NotOurKeyError(key)
            names.append(key[place : place + length].decode())
            place += length
        values = {}
        for name in names:
            _, length = _PAIR.unpack_from(key, place)
            place += _PAIR.size
            values[name] = key[place : place + length]
            place += length
        if place > len(key):
            raise NotOurKeyError(key)
        return values, key[place:].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise NotOurKeyError(key) from error


def pattern(join_keys: Iterable[str], project: str) -> bytes:
    """Pattern for SCAN that every key of these join keys and project matches, and some others do, too."""
    return _escape(prefix(join_keys)) + b"*" + _escape(project.encode())


def _escape(text: bytes) -> bytes:
    return b"".join([b"\\%c" % byte if byte in _SPECIAL else b"%c" % byte for byte in text])

"""Redis keys of entities: version 3 of Feast's entity key serialization, and the project.

Bytes are those of `feast.infra.key_encoding_utils.serialize_entity_key`: the number of join keys, their
names in order of the alphabet, then in the same order the type, length and bytes of each value. Numbers are
little-endian; lengths and types take four bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from feast import ValueType
from feast.infra.key_encoding_utils import serialize_entity_key_prefix

from feast_plugins.materialize.ragged import BINARY, constant, offsets_of, pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feast_plugins.materialize.ragged import Pieces

#: Types of columns whose distinct values have distinct keys, by declared type of the join key.
_EXACT = {
    ValueType.STRING: {pa.string()},
    ValueType.BYTES: {pa.binary()},
    ValueType.INT32: {pa.int32()},
    ValueType.INT64: {pa.int32(), pa.int64()},
}
_NUMBERS = {ValueType.INT32: "<i4", ValueType.INT64: "<i8"}


def is_exact(value_type: ValueType, kind: pa.DataType) -> bool:
    """Whether keys can be made of a column of `kind`, one of each value."""
    return kind in _EXACT.get(value_type, ())


def encode(columns: Mapping[str, tuple[pa.Array, ValueType]], project: str) -> Pieces:
    """Redis key of each row, of the column and type of each join key.

    Raises:
        ValueError: a join key is NULL, which no request could ask for.
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

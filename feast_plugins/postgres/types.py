"""Arrow types of Postgres values: those that Feast names for the type, with time zones kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable

    Conversion = Callable[[pa.Array], pa.Array]

#: Times of results; a time without a zone is UTC, as everywhere in Feast.
TIME = pa.timestamp("us", tz="UTC")
_TYPE_NAME = b"POSTGRESQL:type"


def conform(schema: pa.Schema) -> tuple[pa.Schema, list[Conversion | None]]:
    """Feast's types of the columns that ADBC reads with `schema`, and how to convert each that differs."""
    fields, conversions = [], []
    for field in schema:
        kind, conversion = _conform(field.type, (field.metadata or {}).get(_TYPE_NAME, b"").lstrip(b"_"))
        fields.append(pa.field(field.name, kind))
        conversions.append(conversion)
    return pa.schema(fields), conversions


def _conform(found: pa.DataType, name: bytes) -> tuple[pa.DataType, Conversion | None]:
    if pa.types.is_list(found):
        kind, conversion = _conform(found.value_type, name)
        return pa.list_(kind), conversion and _of_items(conversion)
    if name == b"numeric":
        return pa.float64(), _parse_numbers
    if name in {b"json", b"jsonb"}:
        return pa.string(), _storage
    if name == b"uuid":
        return pa.string(), _uuid_texts
    if name == b"int2":
        return pa.int32(), _cast(pa.int32())
    if name == b"date":
        return pa.timestamp("us"), _cast(pa.timestamp("us"))
    if pa.types.is_timestamp(found):
        return TIME, None if found == TIME else _cast(TIME)
    return found, None


def _cast(kind: pa.DataType) -> Conversion:
    return lambda values: values.cast(kind)


def _of_items(conversion: Conversion) -> Conversion:
    def convert(lists: pa.ListArray) -> pa.ListArray:
        mask = lists.is_null() if lists.null_count else None
        return pa.ListArray.from_arrays(lists.offsets, conversion(lists.values), mask=mask)

    return convert


def _storage(values: pa.ExtensionArray) -> pa.Array:
    return values.storage


def _parse_numbers(values: pa.ExtensionArray) -> pa.Array:
    return values.storage.cast(pa.float64())


def _uuid_texts(values: pa.ExtensionArray) -> pa.Array:
    """Canonical text of each (RFC 9562, section 4)."""
    digits = pa.array(
        [None if value is None else value.hex() for value in values.storage.to_pylist()], pa.string()
    )
    parts = [
        pc.utf8_slice_codeunits(digits, a, b) for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    ]
    return pc.binary_join_element_wise(*parts, "-")

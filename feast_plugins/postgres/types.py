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
_UUID_PARTS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))


def type_name(field: pa.Field) -> str:
    """Postgres' name of the type of a column that ADBC read; an array's begins with `_`."""
    return str((field.metadata or {}).get(_TYPE_NAME, b"").decode())


def conform(schema: pa.Schema) -> tuple[pa.Schema, list[Conversion | None]]:
    """Feast's types of the columns that ADBC reads with `schema`, and how to convert each that differs."""
    fields, conversions = [], []
    for field in schema:
        kind, conversion = _conform(field.type, type_name(field).removeprefix("_"))
        fields.append(pa.field(field.name, kind))
        conversions.append(conversion)
    return pa.schema(fields), conversions


def _conform(found: pa.DataType, name: str) -> tuple[pa.DataType, Conversion | None]:
    if pa.types.is_list(found):
        kind, conversion = _conform(found.value_type, name)
        return pa.list_(kind), conversion and _of_items(conversion)
    return _CONFORMED.get(name, (found, None))


def _cast(kind: pa.DataType) -> tuple[pa.DataType, Conversion]:
    return kind, lambda values: values.cast(kind)


def _of_items(conversion: Conversion) -> Conversion:
    def convert(lists: pa.ListArray) -> pa.ListArray:
        mask = lists.is_null() if lists.null_count else None
        return pa.ListArray.from_arrays(lists.offsets, conversion(lists.values), mask=mask)

    return convert


def _storage(values: pa.ExtensionArray) -> pa.Array:
    return values.storage


def _numbers(values: pa.ExtensionArray) -> pa.Array:
    return values.storage.cast(pa.float64())


def _uuid_texts(values: pa.ExtensionArray) -> pa.Array:
    """Canonical text of each (RFC 9562, section 4)."""
    digits = pa.array([value and value.hex() for value in values.storage.to_pylist()], pa.string())
    return pc.binary_join_element_wise(*(pc.utf8_slice_codeunits(digits, *part) for part in _UUID_PARTS), "-")


#: Where Feast's type for a Postgres type is not the one that ADBC gives.
_CONFORMED: dict[str, tuple[pa.DataType, Conversion | None]] = {
    "numeric": (pa.float64(), _numbers),
    "json": (pa.string(), _storage),
    "jsonb": (pa.string(), _storage),
    "uuid": (pa.string(), _uuid_texts),
    "int2": _cast(pa.int32()),
    "date": _cast(pa.timestamp("us")),
    "timestamp": _cast(TIME),
}

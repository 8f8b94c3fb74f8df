"""Compares tables: names, types and rows; instants are compared, not the clocks they are written in."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable

UTC_TIME = pa.timestamp("us", tz="UTC")


def canonical(value: Any) -> Any:
    """A value that is equal to another exactly if the suite says that both are the same."""
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        case list() | tuple():
            return tuple(canonical(item) for item in value)
    return value


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows in their order."""
    columns = [_microseconds(column).to_pylist() for column in table.columns]
    return [tuple(canonical(value) for value in row) for row in zip(*columns, strict=True)]


def unordered(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows in an order that depends on nothing but themselves."""
    return sorted(rows(table), key=repr)


def assert_same(ours: pa.Table, stock: pa.Table) -> None:
    """Same columns, types and rows; the order of rows, which stock leaves to chance, is free."""
    assert ours.column_names == stock.column_names, f"{ours.column_names} instead of {stock.column_names}"
    for name in stock.column_names:
        assert same_type(ours[name].type, stock[name].type), (name, ours[name].type, stock[name].type)
    found, wanted = unordered(ours), unordered(stock)
    different = [pair for pair in zip_longest(found, wanted) if pair[0] != pair[1]]
    assert not different, f"{len(different)} rows differ, the first: {different[0]}"


def same_type(ours: pa.DataType, stock: pa.DataType) -> bool:
    """Equal, but for what `test_deliberate_difference__times_keep_their_zone` shows."""
    if pa.types.is_list(stock):
        return pa.types.is_list(ours) and same_type(ours.value_type, stock.value_type)
    if pa.types.is_timestamp(stock):
        return pa.types.is_timestamp(ours) and ours.tz in {None, "UTC"}
    return ours == stock


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    return column


def column(table: pa.Table, name: str) -> list[Any]:
    """One column's values."""
    return [canonical(value) for value in _microseconds(table[name]).to_pylist()]


def records(names: Iterable[str], found: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in found]

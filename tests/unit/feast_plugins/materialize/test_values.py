"""Columns are encoded as Feast encodes their values one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from feast import ValueType
from feast.type_map import python_values_to_proto_values
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.properties import examples
from support.single_precision import SINGLES

from feast_plugins.materialize import encoding, resp
from feast_plugins.materialize.encoding import constant

INT32 = st.integers(-(2**31), 2**31 - 1)
# Feast passes a column with nulls through float64
EXACT_INT64 = st.integers(-(2**53), 2**53)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001  # of a column without zone
CASES: dict[tuple[ValueType, pa.DataType], st.SearchStrategy[Any]] = {
    (ValueType.DOUBLE, pa.float64()): st.floats(),
    (ValueType.FLOAT, pa.float32()): SINGLES,
    (ValueType.FLOAT, pa.float64()): st.floats(),
    (ValueType.INT32, pa.int32()): INT32,
    (ValueType.INT32, pa.int64()): INT32,
    (ValueType.INT64, pa.int32()): INT32,
    (ValueType.INT64, pa.int64()): EXACT_INT64,
    (ValueType.BOOL, pa.bool_()): st.booleans(),
    (ValueType.STRING, pa.string()): st.text(max_size=300),
    # nothing but empty bytes is null to Feast, empty bytes beside others are not
    (ValueType.BYTES, pa.binary()): st.binary(min_size=1, max_size=300),
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us")): TIMES,
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us", tz="UTC")): TIMES.map(
        lambda time: time.replace(tzinfo=UTC)
    ),
}


def joined(column: pa.Array, kind: ValueType) -> list[bytes]:
    actual: list[bytes] = resp.join(*encoding.encode_values(column, kind)).to_pylist()
    return actual


def feasts(column: pa.Array, kind: ValueType) -> list[bytes]:
    protos = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
    return [proto.SerializeToString() for proto in protos]


@pytest.mark.parametrize("case", sorted(CASES, key=str), ids=str)
@settings(max_examples=examples(40))
@given(data=st.data(), skipped=st.integers(0, 3))
def test_encode__scalars__equal_feasts(
    data: st.DataObject, case: tuple[ValueType, pa.DataType], skipped: int
) -> None:
    kind, arrow = case
    items = data.draw(st.lists(st.none() | CASES[case], min_size=1, max_size=12))
    column = pa.array(items, arrow).slice(min(skipped, len(items) - 1))
    assert joined(column, kind) == feasts(column, kind)


@pytest.mark.parametrize("case", sorted(CASES, key=str), ids=str)
def test_encode__scalars__take_the_vectorised_way(
    case: tuple[ValueType, pa.DataType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "python_values_to_proto_values", None)
    assert len(joined(pa.nulls(3, case[1]), case[0])) == 3


@given(items=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1))
@example([None, 2**53 + 1])
def test_encode__large_integers_beside_nulls__stay_exact(items: list[int | None]) -> None:
    # each as if it stood alone, where Feast is exact
    expected = [b"" if item is None else feasts(pa.array([item]), ValueType.INT64)[0] for item in items]
    assert joined(pa.array(items, pa.int64()), ValueType.INT64) == expected


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (ValueType.INT64_LIST, pa.array([[1, 2], None, []], pa.list_(pa.int64()))),
        (ValueType.STRING_LIST, pa.array([["a", None], None], pa.list_(pa.string()))),
        (ValueType.DOUBLE_LIST, pa.array([[1.5, -2.0]], pa.list_(pa.float64()))),
        (ValueType.BOOL_LIST, pa.array([[True, False]], pa.list_(pa.bool_()))),
        (ValueType.INT64_SET, pa.array([[1, 1, 2]], pa.list_(pa.int64()))),
        (ValueType.UUID, pa.array(["6f9619ff-8b86-d011-b42d-00c04fc964ff", None])),
        (ValueType.DECIMAL, pa.array(["1.50", None])),
        (ValueType.JSON, pa.array(['{"a": 1}', None])),
        (ValueType.MAP, pa.array(['{"a": 1}', None])),
        (ValueType.STRUCT, pa.array(['{"a": "b"}', None])),
        (ValueType.DOUBLE, pa.array([1, 2], pa.int64())),
        (ValueType.STRING, pa.array([1, 2], pa.int64())),
        (ValueType.FLOAT, pa.nulls(2)),
    ],
    ids=str,
)
def test_encode__other_types__equal_feasts(kind: ValueType, column: pa.Array) -> None:
    assert joined(column, kind) == feasts(column, kind)


def test_encode__empty_bytes__are_no_null() -> None:
    column = pa.array([b"", None, b"x"])
    assert (
        joined(column, ValueType.BYTES) == feasts(column, ValueType.BYTES) == [b"\x0a\x00", b"", b"\x0a\x01x"]
    )


def test_encode__times_in_lists__are_utc() -> None:
    times = [[datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)]]
    actual = joined(pa.array(times, pa.list_(pa.timestamp("us", tz="UTC"))), ValueType.UNIX_TIMESTAMP_LIST)
    assert actual == feasts(pa.array(times, pa.list_(pa.timestamp("us"))), ValueType.UNIX_TIMESTAMP_LIST)


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (ValueType.INT32, pa.array([2**31], pa.int64())),
        (ValueType.DOUBLE, pa.array(["1.5"])),
        (ValueType.BYTES, pa.array(["text"])),
        (ValueType.INT64, pa.array(["many"])),
    ],
    ids=str,
)
def test_encode__what_feast_refuses__is_refused(kind: ValueType, column: pa.Array) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011  # whatever Feast raises
        feasts(column, kind)
    with pytest.raises(expected.type):
        encoding.encode_values(column, kind)


def test_join__constants_alone_beside_rows() -> None:
    assert resp.join(constant(b"a"), pa.array([b"x", b""]), constant(b"b")).to_pylist() == [b"axb", b"ab"]

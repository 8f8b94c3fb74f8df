from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from feast import ValueType
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Null, Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from feast_plugins.online import encoding, reading

NUMBERS = st.floats(allow_nan=False) | st.none()
INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.none()
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.none()
COLUMNS = (
    st.lists(NUMBERS).map(lambda values: (ValueType.DOUBLE, values))
    | st.lists(INTEGERS).map(lambda values: (ValueType.INT64, values))
    | st.lists(TEXTS).map(lambda values: (ValueType.STRING, values))
    | st.lists(st.booleans() | st.none()).map(lambda values: (ValueType.BOOL, values))
)
FIELD = {ValueType.DOUBLE: "double_val", ValueType.INT64: "int64_val", ValueType.STRING: "string_val"}


def protos(kind: ValueType, values: list[Any]) -> list[Value]:
    field = FIELD.get(kind, "bool_val")
    return [Value() if value is None else Value(**{field: value}) for value in values]


@given(COLUMNS)
def test_python_values__are_feasts(column: tuple[ValueType, list[Any]]) -> None:
    messages = protos(*column)
    actual = encoding.python_values([message.SerializeToString() for message in messages], column[0])
    expected = [feast_value_type_to_python_type(message, column[0]) for message in messages]
    assert actual == expected
    assert list(map(type, actual)) == list(map(type, expected))


@given(st.lists(NUMBERS | INTEGERS | TEXTS, max_size=8))
def test_python_values__of_mixed_types__are_feasts(values: list[Any]) -> None:
    kinds = {float: ValueType.DOUBLE, int: ValueType.INT64}
    messages = [protos(kinds.get(type(value), ValueType.STRING), [value])[0] for value in values]
    actual = encoding.python_values([message.SerializeToString() for message in messages], None)
    assert actual == [feast_value_type_to_python_type(message) for message in messages]


def test_python_values__identifiers_stored_as_text__are_told_by_the_type() -> None:
    text = "12345678-1234-5678-1234-567812345678"
    stored = [Value(string_val=text).SerializeToString()]
    assert encoding.python_values(stored, ValueType.UUID) == [
        feast_value_type_to_python_type(Value(string_val=text), ValueType.UUID)
    ]
    assert encoding.python_values(stored, ValueType.STRING) == [text]


@given(st.lists(NUMBERS | st.just(float("nan"))) | st.lists(INTEGERS))
@example([True, None])
@example([1.0, 2])
def test_encode__of_computed_values__is_feasts(values: list[Any]) -> None:
    for kind in (ValueType.DOUBLE, ValueType.INT64):
        try:
            expected = [entry.SerializeToString() for entry in python_values_to_proto_values(values, kind)]
        except (ValueError, TypeError, AssertionError, OverflowError) as error:
            with pytest.raises(type(error)):
                reading.encode_outputs(values, kind)
        else:
            assert reading.encode_outputs(values, kind) == expected


def stamp(time: datetime) -> bytes:
    message = Timestamp()
    message.FromDatetime(time)
    return message.SerializeToString()


@given(st.timedeltas(timedelta(0), timedelta(days=3)), st.none() | st.integers(0, 3 * 86_400))
def test_status__follows_the_time_to_live_to_the_nanosecond(age: timedelta, ttl_s: int | None) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ttl = ttl_s * 10**9 if ttl_s else None
    nanos = int(now.timestamp()) * 10**9
    rows = reading.Rows([stamp(now - age), None], ttl, nanos)
    value = Value(double_val=1.0).SerializeToString()
    column = rows.column([value, None])
    is_young = ttl is None or age <= timedelta(seconds=ttl_s or 0)
    assert list(column.statuses) == [
        reading.PRESENT if is_young else reading.OUTSIDE_MAX_AGE,
        reading.NOT_FOUND,
    ]
    assert list(column.values) == [value if is_young else b"", b""]


def test_status__at_the_limit() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    nanos, hour = int(now.timestamp()) * 10**9, 3600 * 10**9
    for late, expected in ((0, reading.PRESENT), (1, reading.OUTSIDE_MAX_AGE)):
        rows = reading.Rows([stamp(now - timedelta(hours=1))], hour, nanos + late)
        assert list(rows.column([b"\x20\x01"]).statuses) == [expected]


def test_status__of_values_that_are_none() -> None:
    null = Value(null_val=Null.NULL).SerializeToString()
    rows = reading.Rows([stamp(datetime(1970, 1, 1, tzinfo=UTC))] * 4, None, 0)
    column = rows.column([null, None, b"", Value(bool_val=False).SerializeToString()])
    assert list(column.statuses) == [reading.NULL_VALUE] * 3 + [reading.PRESENT]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_field__is_what_protocol_buffers_write(items: list[bytes]) -> None:
    vector = GetOnlineFeaturesResponse.FeatureVector(values=[Value(bytes_val=item) for item in items])
    values = [Value(bytes_val=item).SerializeToString() for item in items]
    assert encoding.Field(1).all(values) == vector.SerializeToString()


@given(st.integers(0, (1 << 64) - 1))
def test_varint(number: int) -> None:
    message = Value(int64_val=number - (1 << 64) if number >= 1 << 63 else number)
    assert b"\x20" + encoding.varint(number) == message.SerializeToString()

"""Keys and event times are Feast's, and no two entities share a key."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from feast import ValueType
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from feast_plugins.materialize import encoding, resp

KINDS = {
    ValueType.STRING: (pa.string(), st.text(max_size=20)),
    ValueType.BYTES: (pa.binary(), st.binary(min_size=1, max_size=20)),
    ValueType.INT32: (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    ValueType.INT64: (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(
    data=st.data(),
    kinds=st.dictionaries(
        st.text(min_size=1, max_size=6), st.sampled_from(sorted(KINDS, key=str)), min_size=1
    ),
    rows=st.integers(1, 5),
    project=st.text(min_size=1, max_size=5),
)
def test_encode__equals_feasts(
    data: st.DataObject, kinds: dict[str, ValueType], rows: int, project: str
) -> None:
    columns = {
        name: (
            pa.array(data.draw(st.lists(KINDS[kind][1], min_size=rows, max_size=rows)), KINDS[kind][0]),
            kind,
        )
        for name, kind in kinds.items()
    }
    protos = {
        name: python_values_to_proto_values(column.to_pylist(), kind)
        for name, (column, kind) in columns.items()
    }
    expected = [
        _redis_key(
            project,
            EntityKey(join_keys=list(columns), entity_values=[protos[name][row] for name in columns]),
            3,
        )
        for row in range(rows)
    ]
    actual = resp.join(*encoding.encode_keys(columns, project))
    assert actual.to_pylist() == expected


def test_encode__colliding_names__differ() -> None:
    pairs = [
        ("1", "11"),
        ("11", "1"),
        ("", "111"),
        ("111", ""),
        ("1|", "1"),
        ("1", "|1"),
        ("é", "e"),
        ("e", "é"),
    ]
    columns = {
        "tenant_id": (pa.array([tenant for tenant, _ in pairs]), ValueType.STRING),
        "asset_id": (pa.array([asset for _, asset in pairs]), ValueType.STRING),
    }
    assert len(set(resp.join(*encoding.encode_keys(columns, "p")).to_pylist())) == len(pairs)


def test_encode__missing_key__is_refused() -> None:
    with pytest.raises(ValueError, match="asset_id is NULL in 1 rows"):
        encoding.encode_keys({"asset_id": (pa.array(["a", None]), ValueType.STRING)}, "p")


@given(st.lists(st.datetimes(datetime(1, 1, 2), datetime(9999, 1, 1)), min_size=1))  # noqa: DTZ001  # made UTC below
@example([datetime(1970, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999999)])  # noqa: DTZ001
def test_times__equal_protobufs(drawn: list[datetime]) -> None:
    column = pa.array(drawn, pa.timestamp("us"))
    expected = []
    for time in drawn:
        stamp = Timestamp()
        stamp.FromDatetime(time)
        assert stamp.seconds == calendar.timegm(time.timetuple())
        expected.append(stamp.SerializeToString())
    micros = encoding.micros(column)
    encoded = resp.join(*encoding.encode_times(micros)).to_pylist()
    assert encoded == expected
    assert encoding.is_current(micros, encoded, equal=True).all()
    assert not encoding.is_current(micros, encoded, equal=False).any()


@given(
    new=st.integers(0, 2**40),
    stored_nanos=st.none() | st.integers(0, 2**50),
    equal=st.booleans(),
)
def test_is_current__to_the_nanosecond(new: int, stored_nanos: int | None, *, equal: bool) -> None:
    if stored_nanos is None:
        message, expected = None, True
    else:
        message = Timestamp(seconds=stored_nanos // 10**9, nanos=stored_nanos % 10**9).SerializeToString()
        expected = new * 1000 >= stored_nanos if equal else new * 1000 > stored_nanos
    assert encoding.is_current(np.array([new]), [message], equal=equal).tolist() == [expected]


def test_is_current__nothing_stored__before_1970() -> None:
    micros = encoding.micros(pa.array([EPOCH - timedelta(days=1)], pa.timestamp("us", tz="UTC")))
    assert encoding.is_current(micros, [None], equal=False).all()

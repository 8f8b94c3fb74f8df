"""The time of a row written back: Feast reads what it always reads, and we read when it was computed."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from feast_plugins.online.writing import computed_at, nanos_of, stamp_of, times_of

# 1970 and times before it have other lengths
TIMES = st.datetimes(datetime(1901, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants naive bounds


@given(event=TIMES, computed=st.integers(0, 2**63 - 1))
def test_computed_at__any_times__both_are_read_and_feast_sees_the_event(
    event: datetime, computed: int
) -> None:
    nanos, stamp = stamp_of(event)
    assert times_of(stamp) == (nanos, None)
    written_back = computed_at(stamp, computed)
    assert written_back != stamp
    assert times_of(written_back) == (nanos, computed)
    assert nanos_of(written_back) == nanos
    read = Timestamp()
    read.ParseFromString(written_back)
    assert read.ToDatetime(UTC) == event

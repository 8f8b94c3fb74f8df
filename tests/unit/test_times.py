"""Times as numbers against slow arithmetic of Python's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from math import floor

from hypothesis import example, given
from hypothesis import strategies as st

from ai_hub.times import assume_utc, from_micros, from_millis, from_nanos, to_micros, to_millis, to_nanos

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-9))])
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=ZONES)  # noqa: DTZ001  # hypothesis wants naive bounds


def _seconds(time: datetime) -> Fraction:
    since = time - EPOCH
    return since.days * 86_400 + since.seconds + Fraction(since.microseconds, 1_000_000)


@given(time=TIMES)
@example(time=EPOCH - timedelta(microseconds=1))
def test_numbers__of_any_time__are_exact_and_rounded_down(time: datetime) -> None:
    seconds = _seconds(time)
    assert to_micros(time) == seconds * 10**6
    assert to_nanos(time) == seconds * 10**9
    assert to_millis(time) == floor(seconds * 1000)


@given(time=TIMES, rest=st.integers(0, 999))
@example(time=EPOCH - timedelta(microseconds=1), rest=999)
def test_times__of_their_numbers__are_the_same_instant_in_utc(time: datetime, rest: int) -> None:
    assert from_micros(to_micros(time)) == from_nanos(to_nanos(time) + rest) == time
    assert from_micros(to_micros(time)).tzinfo is UTC
    assert from_millis(to_millis(time)) == time.astimezone(UTC) - timedelta(
        microseconds=time.microsecond % 1000
    )


def test_assume_utc__naive_time__is_in_utc_and_others_keep_their_zone() -> None:
    naive = datetime(2026, 1, 1, 12)  # noqa: DTZ001  # that is the case
    zoned = naive.replace(tzinfo=timezone(timedelta(hours=2)))
    assert assume_utc(naive) == naive.replace(tzinfo=UTC)
    assert assume_utc(zoned) is zoned

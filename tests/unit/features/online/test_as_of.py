"""What is the present, and which rows describe it: against the wording of the guide, over any times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracles.features import HOUR, floor_hour

from ai_hub.errors import BadInputError
from ai_hub.features.online.query import as_of
from ai_hub.times import from_nanos, to_nanos

TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants naive bounds
SECONDS = st.integers(0, 2 * 3600)
GRACE_S = 300
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def is_current(now: datetime, row: datetime) -> bool:
    """The guide's words."""
    hour = floor_hour(now)
    in_grace = now - hour < timedelta(seconds=GRACE_S)
    return row >= hour or (in_grace and row >= hour - HOUR)


@given(now=TIMES, back=SECONDS)
@example(now=NOON, back=0)
@example(now=NOON, back=3600)
@example(now=NOON + timedelta(seconds=GRACE_S), back=GRACE_S)
@example(now=NOON + timedelta(seconds=GRACE_S), back=GRACE_S + 3600)
def test_is_current__no_time_given__the_present_hour_and_a_grace(now: datetime, back: int) -> None:
    row = now - timedelta(seconds=back)
    assert as_of(None, now, GRACE_S).is_current(to_nanos(row)) == is_current(now, row)


@given(now=TIMES, back=SECONDS, computed_back=st.integers(-60, 2 * GRACE_S))
@example(now=NOON, back=0, computed_back=GRACE_S)
@example(now=NOON, back=0, computed_back=GRACE_S + 1)
def test_is_current__written_back__not_after_its_time(now: datetime, back: int, computed_back: int) -> None:
    row, computed = now - timedelta(seconds=back), now - timedelta(seconds=computed_back)
    assert as_of(None, now, GRACE_S).is_current(to_nanos(row), to_nanos(computed)) == (
        is_current(now, row) and computed_back <= GRACE_S
    )


@given(now=TIMES, back=SECONDS, computed_back=st.none() | st.integers(-60, 2 * GRACE_S))
@example(now=NOON + timedelta(minutes=30), back=3600, computed_back=None)
@example(now=NOON + timedelta(minutes=30) - timedelta(microseconds=1), back=3600, computed_back=None)
def test_awaits_successor__row_of_the_hour_before__until_half_past(
    now: datetime, back: int, computed_back: int | None
) -> None:
    row, hour = now - timedelta(seconds=back), floor_hour(now)
    computed = None if computed_back is None else to_nanos(now - timedelta(seconds=computed_back))
    assert as_of(None, now, GRACE_S).awaits_successor(to_nanos(row), computed) == (
        now - hour < HOUR / 2 and row >= hour - HOUR and (computed_back is None or computed_back <= GRACE_S)
    )
    # a past time has none
    assert not as_of(now - 2 * HOUR, now, GRACE_S).awaits_successor(to_nanos(row), computed)


@given(now=TIMES, back=SECONDS, row_back=SECONDS)
def test_is_current__time_given__only_in_the_present_hour_and_never_a_later_row(
    now: datetime, back: int, row_back: int
) -> None:
    asked, row = now - timedelta(seconds=back), now - timedelta(seconds=row_back)
    found = as_of(asked, now, GRACE_S)
    assert found.is_current(to_nanos(row)) == (
        floor_hour(asked) == floor_hour(now) and row <= asked and is_current(now, row)
    )
    assert from_nanos(found.hour) == floor_hour(asked)


@given(now=TIMES, ahead=st.integers(0, 600_000_000))
@example(now=NOON, ahead=300_000_000)
@example(now=NOON, ahead=300_000_001)
def test_moment__ahead_of_the_clock__five_minutes_are_the_present(now: datetime, ahead: int) -> None:
    asked = now + timedelta(microseconds=ahead)
    if asked - now <= timedelta(minutes=5):
        assert as_of(asked, now, GRACE_S).time == now
    else:
        with pytest.raises(BadInputError, match="future"):
            as_of(asked, now, GRACE_S)


@given(time=TIMES)
def test_nanos__and_back__same_time(time: datetime) -> None:
    assert from_nanos(to_nanos(time)) == time

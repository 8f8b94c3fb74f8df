from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.issue_rows import RECIPE, START, make_rows, step_values

from ai_hub.errors import BadInputError
from ai_hub.forecasting.issues import (
    DAY,
    HOUR,
    WEEK,
    IssueRows,
    IssueRule,
    StepValues,
    baseline,
    instant,
    issue_times,
    level,
    matrix,
    naive,
    parse_duration,
)

INPUTS = RECIPE.inputs


def gappy(seed: int, hours: int = 30 * 24) -> StepValues:
    random = np.random.default_rng(seed)
    values = {name: random.normal(5, 2, hours) for name in ("a", "b")}
    for each in values.values():
        each[random.random(hours) < 0.3] = np.nan
    values["b"][: 20 * 24] = np.nan  # a new meter
    return step_values(values)


def slow_value(values: StepValues, asset: str, start: datetime) -> float:
    steps = (start - START) // values.step
    if asset not in values.assets.tolist() or not 0 <= steps < values.values.shape[1]:
        return math.nan
    return float(values.values[values.assets.tolist().index(asset), steps])


@pytest.mark.parametrize("season", [DAY, WEEK])
@given(delay=st.integers(0, 80), seed=st.integers(0, 3))
def test_naive__is_the_last_known_value_whole_seasons_before(
    season: timedelta, delay: int, seed: int
) -> None:
    values = gappy(seed)
    rows = make_rows(values, leads=30).take(slice(None, None, 7))
    late = timedelta(hours=delay)
    found = naive(values, rows, season, np.full(len(rows), np.timedelta64(late)))
    for row in range(len(rows)):
        issue = rows.issued_at[row].astype(datetime).replace(tzinfo=UTC)
        for lead in range(30):
            target = issue + lead * HOUR
            known = [
                target - back * season
                for back in range(1, 30)
                if target - back * season + HOUR + late <= issue
            ]
            candidates = [slow_value(values, str(rows.assets[row]), at) for at in known[:4]]
            expected = next((each for each in candidates if not math.isnan(each)), math.nan)
            assert found[row, lead] == pytest.approx(expected, nan_ok=True, abs=0)


@given(seed=st.integers(0, 3))
def test_naive__of_steps_that_say_when_they_arrived__takes_what_was_there(seed: int) -> None:
    values = gappy(seed)
    random = np.random.default_rng(seed)
    hours = random.choice([0.0, 5.5, 30.0, 130.0, np.nan], values.values.shape)
    hours[1] = np.nan  # the other one says nothing
    arrived = replace(values, values=hours)
    rows = make_rows(values, leads=30).take(slice(None, None, 7))
    found = naive(values, rows, DAY, np.full(len(rows), np.timedelta64(DAY)), arrived)
    for row in range(len(rows)):
        issue = rows.issued_at[row].astype(datetime).replace(tzinfo=UTC)
        asset = str(rows.assets[row])
        for lead in range(30):
            backs = [issue + lead * HOUR - back * DAY for back in range(1, 60)]
            hours_of = {at: slow_value(arrived, asset, at) for at in backs}
            late = {at: DAY if math.isnan(each) else each * HOUR for at, each in hours_of.items()}
            was_known = [at + HOUR + late[at] <= issue for at in backs]
            # a gap of an asset whose readings say it is no season that was known
            says_it = [
                asset == "b" or not (math.isnan(hours_of[at]) and math.isnan(slow_value(values, asset, at)))
                for at in backs
            ]
            first = next(
                (number for number, both in enumerate(zip(was_known, says_it, strict=True)) if all(both)),
                len(backs),
            )
            known = [
                slow_value(values, asset, backs[number])
                for number in range(first, min(first + 4, len(backs)))
                if was_known[number]
            ]
            expected = next((each for each in known if not math.isnan(each)), math.nan)
            assert found[row, lead] == pytest.approx(expected, nan_ok=True, abs=0)


@pytest.mark.parametrize("season", [DAY, WEEK])
@given(late=st.integers(0, 400), seed=st.integers(0, 3))
def test_naive__of_steps_that_arrived_equally_late__is_that_of_the_rule(
    season: timedelta, late: int, seed: int
) -> None:
    values = gappy(seed)
    rows = make_rows(values, leads=30).take(slice(None, None, 5))
    arrived = replace(values, values=np.full(values.values.shape, float(late)))
    delay = np.full(len(rows), np.timedelta64(timedelta(hours=late)))
    by_rule = naive(values, rows, season, delay)
    found = naive(values, rows, season, np.zeros_like(delay), arrived)
    np.testing.assert_array_equal(found, by_rule)


def test_matrix__has_features_by_row_and_lead_as_multiples_of_the_level() -> None:
    rows = make_rows(gappy(1), leads=5)
    levels = level(rows, INPUTS)
    leads = np.tile([4, 0, 2], (len(rows), 1))
    found = matrix(rows, leads, INPUTS, levels).reshape(len(rows), 3, -1)
    assert INPUTS.columns == [
        "mean_7d",
        "same_hour_1d",
        "same_hour_7d",
        "hour_of_day",
        "day_of_week",
        "lead_hours",
    ]
    for row in range(len(rows)):
        known = [
            rows.scalars["mean_7d"][row],
            *rows.arrays["same_hour_1d"][row],
            *rows.arrays["same_hour_7d"][row],
        ]
        squares = [each**2 for each in known if not math.isnan(each)]
        size = math.sqrt(math.fsum(squares) / len(squares)) if squares else math.nan
        assert levels[row] == pytest.approx(size, nan_ok=True)
        for column, lead in enumerate((4, 0, 2)):
            expected = [
                rows.scalars["mean_7d"][row] / size,
                rows.arrays["same_hour_1d"][row, lead] / size,
                rows.arrays["same_hour_7d"][row, lead] / size,
                rows.arrays["hour_of_day"][row, lead],
                rows.arrays["day_of_week"][row, lead],
                lead,
            ]
            assert found[row, column].tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_baseline__is_the_mean_of_what_a_target_has_else_of_the_others() -> None:
    nan = math.nan
    rows = IssueRows(
        "t",
        np.array(["a", "b"]),
        np.array([START.replace(tzinfo=None)] * 2, "datetime64[us]"),
        HOUR,
        {"mean_7d": np.array([9.0, nan])},
        {
            "same_hour_1d": np.array([[1.0, nan, nan], [nan, nan, nan]]),
            "same_hour_7d": np.array([[3.0, 4.0, nan], [nan, nan, nan]]),
            "hour_of_day": np.zeros((2, 3)),
            "day_of_week": np.zeros((2, 3)),
        },
    )
    np.testing.assert_array_equal(baseline(rows, INPUTS), [[2.0, 4.0, 3.0], [nan] * 3])
    assert level(rows, INPUTS).tolist() == pytest.approx([math.sqrt((1 + 9 + 16 + 81) / 4), nan], nan_ok=True)


def test_rows__of_different_lengths__are_refused() -> None:
    with pytest.raises(ValueError, match="of 1 rows"):
        IssueRows(
            "t",
            np.array(["a"]),
            np.array([instant(START)]),
            HOUR,
            {"x": np.zeros(2)},
            {"y": np.zeros((1, 3))},
        )


def test_known_by__keeps_only_values_whose_step_has_ended_so_long_ago() -> None:
    rows = make_rows(step_values({"a": np.arange(21.0 * 24)}), leads=48)
    at = instant(START + timedelta(days=12, hours=5))
    delay = np.full(len(rows), np.timedelta64(2 * DAY))
    known = rows.known_by(at, delay)
    assert known.issued_at.max() < at
    expected = known.ends + np.timedelta64(2 * DAY) <= at
    assert known.actual is not None
    assert (np.isnan(known.actual) == ~expected).all()
    assert expected.any()
    assert not expected.all()


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)]
)
def test_issue_rule__day_of_delivery__is_that_of_its_zone(day: date, hours: int) -> None:
    rule = IssueRule.parse("D-1 10:00 Europe/Berlin")
    issue = rule.issued_for(day)
    first, last = rule.delivery(issue)
    assert issue.astimezone(UTC).hour in {8, 9}
    assert (last - first) / HOUR == hours
    rule.check_horizon(38 * HOUR + HOUR)
    with pytest.raises(BadInputError, match="ends before the day of delivery"):
        rule.check_horizon(38 * HOUR)
    rows = IssueRows("t", np.array(["a"]), np.array([instant(issue)]), HOUR, {}, {"x": np.zeros((1, 48))})
    (delivered,) = rule.delivered(rows)
    assert delivered.sum() == hours
    assert np.flatnonzero(delivered)[0] == 24 - 10


def test_issue_rule__zone_of_half_hours__issues_at_the_step_before_for_the_same_day() -> None:
    rule = IssueRule.parse("D-1 00:00 Asia/Kolkata")
    issues = issue_times(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 3, tzinfo=UTC), HOUR, rule)
    assert [f"{each:%d %H:%M}" for each in issues] == ["01 18:00", "02 18:00"]
    first, last = rule.delivery(issues[0])
    assert (f"{first:%d %H:%M}", f"{last:%d %H:%M}") == ("02 18:30", "03 18:30")


def test_issue_times__rule_of_many_days_ahead__has_the_newest_issues() -> None:
    for days in (1, 2, 4, 9):
        issues = issue_times(START, START + 30 * DAY, HOUR, IssueRule.parse(f"D-{days} 23:00"))
        assert issues == [START + number * DAY + 23 * HOUR for number in range(30)]


def test_issue_rule__round_trip_and_what_is_none() -> None:
    assert str(IssueRule.parse("D-2 9:30")) == "D-2 09:30 UTC"
    for text in ("10:00", "D-1 25:00", "D-1 10:00 Mars/Base", "D-1 10:00 Europe", "D-1 10:00 ../x", ""):
        with pytest.raises(BadInputError, match="no time of issue"):
            IssueRule.parse(text)


def test_issue_times__without_a_rule__are_one_a_day_at_all_hours() -> None:
    issues = issue_times(START, START + 24 * DAY, HOUR)
    assert len(issues) == 24
    assert {issue.hour for issue in issues} == set(range(24))
    assert len({issue.date() for issue in issues}) == 24


def test_duration__is_a_number_and_a_unit() -> None:
    assert parse_duration("48h", "--horizon") == timedelta(hours=48)
    assert parse_duration("15m", "--step") == timedelta(minutes=15)
    assert parse_duration("7d", "--horizon") == timedelta(days=7)
    for text in ("", "48", "-1h", "0h", "1.5h", "two"):
        with pytest.raises(BadInputError, match="no duration"):
            parse_duration(text, "--horizon")

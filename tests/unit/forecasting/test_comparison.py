"""Paired comparisons: beside a slow computation, and how often a placebo and a better challenger pass."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import signal, stats

from ai_hub.errors import BadInputError
from ai_hub.forecasting.comparison import PairedComparison, compare

HOURS = 168
#: As the gate's defaults have it.
MOST_P, LEAST_GAIN, WORST_GROUP = 0.01, 0.02, -0.05


def slow(week: list[int], production: list[float], challenger: list[float]) -> dict[str, float]:
    """One number after the other, by the formula of the paper with two weeks."""
    by_week, there = defaultdict(list), Counter(week)
    for number, theirs, ours in zip(week, production, challenger, strict=True):
        if not (math.isnan(theirs) or math.isnan(ours)):
            by_week[number].append((theirs, ours))
    kept = {number: each for number, each in sorted(by_week.items()) if len(each) >= there[number] / 2}
    differences = {
        number: statistics.fmean(theirs - ours for theirs, ours in each) for number, each in kept.items()
    }
    base = statistics.fmean(statistics.fmean(theirs for theirs, _ in each) for each in kept.values())
    n, mean = len(differences), statistics.fmean(differences.values())
    own = sum((each - mean) ** 2 for each in differences.values()) / n
    # a week after a hole has no neighbour before it
    next_one = 0.0
    for number, each in differences.items():
        if number + 1 in differences:
            next_one += (each - mean) * (differences[number + 1] - mean) / n
    error = math.sqrt(max(own, own + 2 * next_one) / n) / math.sqrt((n + 1 - 4 + 2 / n) / n)
    half = stats.t.ppf(0.99, n - 1) * error
    return {
        "weeks": n,
        "gain": mean / base,
        "low": (mean - half) / base,
        "high": (mean + half) / base,
        "statistic": mean / error,
        "p": 1 - stats.t.cdf(mean / error, n - 1),
    }


@given(
    seed=st.integers(0, 10_000),
    weeks=st.integers(8, 40),
    shift=st.floats(-0.3, 0.3),
    holes=st.sets(st.integers(0, 40), max_size=4),
)
@example(seed=1, weeks=8, shift=0.1, holes={0, 3, 7})
def test_it_is_that_of_a_slow_computation(seed: int, weeks: int, shift: float, holes: set[int]) -> None:
    drawn = np.random.default_rng(seed)
    week = np.sort(drawn.integers(weeks, size=weeks * 20))
    production, challenger = drawn.gamma(2, 1, len(week)), drawn.gamma(2, 1, len(week)) * (1 - shift)
    lost = drawn.random(len(week)) < np.where(np.isin(week, [*holes]), 0.9, 0.1)
    production[lost & (drawn.random(len(week)) < 0.7)] = np.nan
    challenger[lost & np.isfinite(production)] = np.nan
    found = compare(week, production, challenger)
    expected = slow(week.tolist(), production.tolist(), challenger.tolist())
    own = {"weeks": found.weeks, "gain": found.gain, "low": found.interval[0], "high": found.interval[1]}
    assert own | {"statistic": found.statistic, "p": found.p} == pytest.approx(expected, abs=1e-9)
    # the interval and the test say the same
    assert (found.interval[0] > 0) == (found.p < MOST_P)
    assert found.challenger_mae == pytest.approx(found.production_mae * (1 - found.gain))


def test_weeks_with_few_targets_do_not_count() -> None:
    week = np.repeat([0, 1, 2, 3, 4, 5, 6], 10)
    production = np.ones(len(week))
    challenger = np.where(week == 5, 0.0, 0.9)
    # six of ten are not there in one, five of ten in another
    challenger[50:56] = np.nan
    production[60:65] = np.nan
    found = compare(week, production, challenger, {"all": week >= 0, "none": week == 5})
    assert (found.weeks, found.targets) == (6, 55)
    assert found.gain == pytest.approx(0.1)
    assert found.groups == {"all": pytest.approx(0.1)}


def test_weeks_around_a_hole_are_no_neighbours() -> None:
    difference = np.repeat([1.0, 0.0], 6)
    variances = []
    for apart in (1, 2):
        # two apart, every second week is left out
        week = np.repeat(np.arange(len(difference)) * apart, 4)
        production = np.full(len(week), 10.0)
        found = compare(week, production, production - np.repeat(difference, 4))
        variances.append((difference.mean() / found.statistic) ** 2)
    n, own = len(difference), 0.25
    correction = n * (n - 3 + 2 / n) / n
    # of eleven pairs of neighbours one differs
    assert variances[0] == pytest.approx((own + 2 * 9 * own / n) / correction)
    assert variances[1] == pytest.approx(own / correction)


def test_groups_say_who_loses_by_it() -> None:
    week = np.tile(np.repeat(np.arange(8), 10), 2)
    first = np.arange(len(week)) < len(week) / 2
    production = np.where(first, 10.0, 1.0)
    found = compare(
        week,
        production,
        production * np.where(first, 0.8, 1.3),
        {"large": first, "small": ~first, "of no errors": np.zeros(len(week), bool)},
    )
    assert found.groups == {"large": pytest.approx(0.2), "small": pytest.approx(-0.3)}
    assert found.gain == pytest.approx((0.2 * 10 - 0.3) / 11)


def test_errors_where_there_were_none_are_a_loss() -> None:
    week = np.repeat(np.arange(8), 10)
    night = np.arange(len(week)) % 2 == 0
    production = np.where(night, 0.0, 1.0)
    found = compare(week, production, np.where(night, 0.1, 0.5), {"night": night, "day": ~night})
    assert found.groups == {"night": -10, "day": pytest.approx(0.5)}


def test_the_same_forecasts_are_no_better() -> None:
    week = np.repeat(np.arange(10), 10)
    errors = np.random.default_rng(1).gamma(2, 1, len(week))
    found = compare(week, errors, errors)
    assert (found.gain, found.statistic, found.interval) == (0, 0, (0, 0))
    assert found.p == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("weeks", "errors", "says"), [(3, 1.0, "3 weeks"), (0, 1.0, "0 weeks"), (8, 0.0, "makes no errors")]
)
def test_what_cannot_be_compared_is_refused(weeks: int, errors: float, says: str) -> None:
    week = np.repeat(np.arange(weeks), 10)
    with pytest.raises(BadInputError, match=says):
        compare(week, np.full(len(week), errors), np.ones(len(week)))


def noise(drawn: np.random.Generator, meters: int, hours: int) -> np.ndarray:
    """Errors of meters by hour: heavy tails (Student, 4 degrees), alike from hour to hour."""
    shocks = stats.t.rvs(4, size=(meters, hours), random_state=drawn) / 2**0.5
    return signal.lfilter([0.6], [1, -0.8], shocks, axis=-1)


def simulated(
    drawn: np.random.Generator,
    weeks: int,
    *,
    better: float,
    alike: float = 0.9,
    meters: int = 3,
    lost: float = 0,
) -> PairedComparison:
    """Errors of two versions, alike to this part of their variance; weeks are calm or wild in turns.

    There are as many weeks that count as `weeks` says, beside those that are lost.

    Args:
        drawn: random numbers.
        weeks: how many.
        better: by which part the challenger errs less in truth.
        alike: part of the variance that both have in common.
        meters: how many.
        lost: part of the weeks of which three quarters of the hours are gone.
    """
    is_lost = np.zeros(weeks, bool)
    if lost:
        is_lost = drawn.random(4 * weeks) < lost
        weeks = int(np.searchsorted(np.cumsum(~is_lost), weeks)) + 1
    hours = weeks * HOURS
    wild = np.exp(0.35 * signal.lfilter([0.8], [1, -0.6], drawn.normal(size=weeks)))
    common = noise(drawn, meters, hours)
    production, challenger = (
        np.abs(
            np.repeat(wild, HOURS) * (alike**0.5 * common + (1 - alike) ** 0.5 * noise(drawn, meters, hours))
        )
        for _ in range(2)
    )
    week = np.tile(np.repeat(np.arange(weeks), HOURS), meters)
    meter, hour = np.repeat(np.arange(meters), hours), np.tile(np.arange(hours), meters)
    groups = {f"lead {each}": hour % 24 // 6 == each for each in range(4)}
    groups |= {f"meter {each}": meter == each for each in range(meters)}
    if lost:
        production[:, np.repeat(is_lost[:weeks], HOURS) & (drawn.random(hours) < 0.75)] = np.nan
    return compare(week, production.ravel(), (1 - better) * challenger.ravel(), groups)


def passes(found: PairedComparison) -> bool:
    """By the gate's defaults."""
    return found.p < MOST_P and found.gain >= LEAST_GAIN and min(found.groups.values()) >= WORST_GROUP


def rate(runs: int, *, better: float, weeks: int = 26, seed: int = 1, lost: float = 0) -> float:
    drawn = np.random.default_rng(seed)
    return sum(passes(simulated(drawn, weeks, better=better, lost=lost)) for _ in range(runs)) / runs


def test_a_placebo_seldom_passes_and_a_better_challenger_nearly_always() -> None:
    assert rate(100, better=0) <= 0.05
    assert rate(100, better=0.05) >= 0.9


@pytest.mark.long
def test_a_placebo_seldom_passes_and_a_better_challenger_nearly_always_in_many_runs() -> None:
    assert rate(2000, better=0, seed=2) <= 0.02
    assert rate(2000, better=0.05, seed=3) >= 0.9
    # every fifth week is lost
    assert rate(2000, better=0, seed=6, lost=0.2) <= 0.02
    assert rate(2000, better=0.05, seed=7, lost=0.2) >= 0.9
    # four weeks tell little
    assert rate(2000, better=0.05, weeks=4, seed=4) <= 0.5
    assert rate(2000, better=0, weeks=4, seed=5) <= 0.05

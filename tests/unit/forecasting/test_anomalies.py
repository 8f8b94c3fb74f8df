"""Each method finds what its definition finds, computed slowly, and says so when it cannot be used."""

from __future__ import annotations

from datetime import timedelta
from statistics import fmean, stdev

import numpy as np
import pytest
from oracles import outliers

from ai_hub.errors import BadInputError
from ai_hub.forecasting.anomalies import (
    DECOMPOSITION,
    HIGHEST_SCORE,
    METHODS,
    Detection,
    Floats,
    Series,
    detect,
    severity,
)

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2026-03-02T00:00", "us")
EVERY_METHOD = [*METHODS, DECOMPOSITION]


def series(values: Floats, first: int = 0, step: np.timedelta64 = HOUR) -> Series:
    return Series(START + (first + np.arange(len(values))) * step, np.asarray(values, float))


def found(
    values: Series, method: str, *, training: Series | None = None, sensitivity: float = 3, hours: int = 8760
) -> Detection:
    return detect(values, training, method, sensitivity=sensitivity, lookback=timedelta(hours=hours))


@pytest.fixture
def usual() -> Floats:
    return np.random.default_rng(1).normal(50, 4, 120)


@pytest.fixture
def odd() -> Floats:
    values = np.random.default_rng(2).normal(50, 4, 60)
    values[[10, 30, 50]] = [90, 5, 66]
    return values


@pytest.mark.parametrize(
    ("method", "oracle"), [("z_score", outliers.z_scores), ("iqr", outliers.quartile_scores)]
)
@pytest.mark.parametrize("has_training", [True, False])
def test_distance__is_that_of_its_definition(
    usual: Floats, odd: Floats, method: str, oracle: object, has_training: bool
) -> None:
    assert callable(oracle)
    training = series(usual, -500) if has_training else None
    actual = found(series(odd), method, training=training, sensitivity=2.5)
    expected = oracle(list(usual) if has_training else list(odd), list(odd))
    assert actual.scores == pytest.approx(expected)
    # what is inside the range is no anomaly, and what is outside is one
    inside = (actual.minimum <= odd) & (odd <= actual.maximum)
    assert (inside == (actual.scores <= 2.5)).all()
    assert 0 < (~inside).sum() < 10
    if has_training:
        assert actual.mean[0] == pytest.approx(fmean(usual))
        assert actual.std[0] == pytest.approx(stdev(usual))


@pytest.mark.parametrize("has_training", [True, False])
def test_local_outlier_factor__is_that_of_its_definition(
    usual: Floats, odd: Floats, has_training: bool
) -> None:
    training = series(usual, -500) if has_training else None
    actual = found(series(odd), "local_outlier_factor", training=training)
    reference = list(usual) if has_training else list(odd)
    factors = outliers.local_outlier_factors(reference, [*reference, *odd], 20)
    expected = outliers.above_mean(factors[: len(reference)], factors[len(reference) :])
    assert actual.scores == pytest.approx(np.minimum(expected, HIGHEST_SCORE), rel=1e-6)
    assert actual.scores[10] > 3
    assert actual.scores[30] > 3


def test_local_outlier_factor__of_many_equal_values__is_finite() -> None:
    values = np.concatenate([np.zeros(200), np.random.default_rng(3).normal(50, 4, 100), [500.0]])
    actual = found(series(values), "local_outlier_factor")
    assert np.isfinite(actual.scores).all()
    assert actual.scores[-1] > 3
    assert (actual.scores[:200] < 3).all()


def test_isolation_forest__agrees_with_random_cuts_of_our_own(usual: Floats, odd: Floats) -> None:
    actual = found(series(odd), "isolation_forest", training=series(usual, -500))
    measures = outliers.isolations(list(usual), [*usual, *odd], trees=300, seed=5)
    expected = outliers.above_mean(measures[: len(usual)], measures[len(usual) :])
    assert actual.scores == pytest.approx(expected, abs=0.6)
    assert (actual.scores[[10, 30, 50]] > 3).all()
    assert (actual.scores > 3).sum() < 10
    again = found(series(odd), "isolation_forest", training=series(usual, -500))
    assert (again.scores == actual.scores).all()


@pytest.mark.parametrize("has_training", [True, False])
def test_decomposition__finds_what_was_added_to_trend_and_season(has_training: bool) -> None:
    count = 24 * 14
    noise = np.random.default_rng(4).normal(0, 1, count)
    hours = np.arange(count)
    truth = 100 + hours * 0.05 + 20 * np.sin(hours / 24 * 2 * np.pi)
    values = truth + noise
    added = {300: 9.0, 320: -12.0}
    for index, size in added.items():
        values[index] = truth[index] + size
    if has_training:
        own = slice(240, None)
        actual = found(series(values[own], 240), DECOMPOSITION, training=series(values[:240]), sensitivity=4)
    else:
        own = slice(None)
        actual = found(series(values), DECOMPOSITION, sensitivity=4)
    places = {int(index) + (240 if has_training else 0) for index in np.flatnonzero(actual.scores > 4)}
    assert places == set(added)
    assert np.sqrt(np.mean((actual.mean - truth[own]) ** 2)) < 0.7  # of noise of 1
    assert (actual.maximum - actual.mean) == pytest.approx(4 * actual.std)
    assert "STL of statsmodels" in actual.explanation(0)


def test_decomposition__bridges_gaps_and_uses_weeks_of_daily_values() -> None:
    days = np.arange(70)
    values = 100.0 + 30 * (days % 7 >= 5) + np.random.default_rng(5).normal(0, 1, 70)
    values[40] += 25
    kept = np.delete(days, [10, 33, 34])
    points = series(values, step=np.timedelta64(1, "D"))
    actual = found(Series(points.times[kept], points.values[kept]), DECOMPOSITION, sensitivity=5)
    assert {int(kept[index]) for index in np.flatnonzero(actual.scores > 5)} == {40}


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_values_without_any_spread__have_no_anomaly_but_those_that_differ(method: str) -> None:
    training = series(np.full(96, 0.1), -96)
    same = found(series(np.full(48, 0.1)), method, training=training)
    assert same.scores == pytest.approx(np.zeros(48), abs=1e-3)
    changed = np.full(48, 0.1)
    changed[20] = 0.2
    other = found(series(changed), method, training=training)
    assert set(np.flatnonzero(other.scores > 3)) == {20}
    assert other.scores[20] == HIGHEST_SCORE
    assert "100 or more" in other.explanation(20)


@pytest.mark.parametrize("method", METHODS)
def test_two_points__are_enough(method: str) -> None:
    assert np.isfinite(found(series(np.array([1.0, 2.0])), method).scores).all()


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_old_points__are_judged_and_no_reference(usual: Floats, method: str) -> None:
    values = np.concatenate([usual, usual])
    values[:50] += 100
    late = found(series(values), method, hours=150)
    if method != DECOMPOSITION:  # which takes a new level for the trend
        assert (late.scores[:50] > 3).all()
        alone = found(series(values[:50]), method, training=series(values[-150:], 90))
        assert alone.scores == pytest.approx(late.scores[:50])
    assert len(late.scores) == 240


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (np.array([0, 1, 2.5, *range(3, 60)]), "regular times"),
        (np.arange(0, 60) * 5, "divide a day"),
        (np.arange(0, 60) * 48, "divide a day"),
        (np.arange(0, 40), "needs 48 steps, two days; these points span 40"),
        (np.arange(0, 12) * 24, "needs 14 steps, two weeks"),
        (np.concatenate([np.arange(24), np.arange(100, 124)]), "have no point"),
    ],
)
def test_decomposition__of_times_it_cannot_use__says_so(hours: Floats, text: str) -> None:
    times = START + (hours * 3600).astype("timedelta64[s]")
    with pytest.raises(BadInputError, match=text):
        found(Series(times, np.arange(len(hours), dtype=float)), DECOMPOSITION)


def test_decomposition__of_training_data_among_the_series__says_so(usual: Floats) -> None:
    with pytest.raises(BadInputError, match="does not end before"):
        found(series(usual), DECOMPOSITION, training=series(usual, -10))


def test_reference__of_one_point__is_refused() -> None:
    times = START + np.array([0, 1, 100]) * HOUR
    with pytest.raises(BadInputError, match="one point in the last 5 hours"):
        found(Series(times, np.array([1.0, 2.0, 3.0])), "z_score", hours=5)


def test_severity__is_that_of_the_score() -> None:
    scores = (1.2, 2.5, 2.6, 3.5, 3.6, 4.5, 4.6, 100)
    expected = ["low", "low", "medium", "medium", "high", "high", "critical", "critical"]
    assert [severity(score) for score in scores] == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values", [[1.0, 1.0 + 1e-10], [0.0, 5e-324], [2.0, 2.0, 2.0 + 1e-9, 2.0], [0.0, 1e-310, 3e-310]]
)
def test_values_that_differ_by_almost_nothing__have_finite_scores(method: str, values: list[float]) -> None:
    detection = found(series(np.array(values)), method)
    assert np.isfinite(detection.scores).all()
    # of almost zero no spread is left
    assert max(values) < 1 or (detection.scores < 3).all()

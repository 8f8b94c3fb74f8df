from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.issue_rows import RECIPE, load, make_rows, step_values

from ai_hub.forecasting.calibration import Calibration, PastForecasts, bucket_names, buckets_of, widths
from ai_hub.forecasting.issues import DAY, HOUR, Flags, Floats, IssueRows, level

LEVELS = (0.1, 0.5, 0.9)
LATE = 2 * DAY


def past_of(rows: IssueRows, quantiles: Floats) -> PastForecasts:
    delay = np.full(len(rows), np.timedelta64(LATE))
    return PastForecasts(
        rows, quantiles, LEVELS, level(rows, RECIPE.inputs), np.zeros(len(rows), bool), delay
    )


@pytest.fixture(scope="module")
def past() -> PastForecasts:
    """A year of forecasts whose bands are half as wide as they should be, and lie too high."""
    random = np.random.default_rng(7)
    hours = 60 * 7 * 24
    values = step_values({name: load(random, hours, scale) for name, scale in (("a", 1.0), ("b", 200.0))})
    rows = make_rows(values, delay=LATE, leads=30)
    scale = np.where(rows.assets == "a", 1.0, 200.0)[:, None]
    hours = (rows.starts - values.start).astype("timedelta64[h]").astype(np.int64)
    mean = scale * load(np.random.default_rng(0), int(hours.max()) + 1, noise=0)[hours]
    spread = np.array([-1.28, 0, 1.28]) / 2 + 0.5
    return past_of(rows, mean[..., None] + 0.1 * scale[..., None] * spread)


def coverage(rows: IssueRows, quantiles: Floats) -> float:
    assert rows.actual is not None
    known = np.isfinite(rows.actual)
    return float(((quantiles[..., 0] <= rows.actual) & (rows.actual <= quantiles[..., -1]))[known].mean())


def calibrated(past: PastForecasts, chosen: Flags) -> Floats:
    """The quantiles, those of chosen rows by the calibration of their own issue."""
    found = past.quantiles.copy()
    for at in np.unique(past.rows.issued_at[chosen]):
        rows = past.rows.issued_at == at
        found[rows] = past.calibration(at).apply(
            past.rows.assets[rows], past.quantiles[rows], past.row_levels[rows], HOUR
        )
    return found


def test_calibration__known_distribution__bands_cover_what_they_say(past: PastForecasts) -> None:
    later = past.rows.issued_at >= past.rows.issued_at.min() + np.timedelta64(35, "D")
    found = calibrated(past, later)
    assert coverage(past.rows, past.quantiles) < 0.6
    assert coverage(past.rows.take(later), found[later]) == pytest.approx(0.8, abs=0.02)
    assert past.rows.actual is not None
    known = np.isfinite(past.rows.actual) & later[:, None]
    for position in (0, 2):
        below = past.rows.actual[known] < found[known][:, position]
        assert below.mean() == pytest.approx(LEVELS[position], abs=0.02)
    # what is the point forecast stays, but where a band is moved over it
    assert (found[..., 1] == past.quantiles[..., 1])[later].mean() > 0.95


def test_calibration__of_values_that_say_when_they_arrived__is_that_of_the_rule(past: PastForecasts) -> None:
    late = np.timedelta64(40 * DAY)
    at = past.rows.issued_at[len(past.rows) // 4]
    by_rule = replace(past, delay=np.full(len(past.rows), late)).calibration(at)
    rows = replace(past.rows, actual_known=past.rows.ends + late)
    found = replace(past, rows=rows, delay=np.zeros_like(past.delay)).calibration(at)
    assert (by_rule.pooled != 0).any()
    assert found.as_json() == by_rule.as_json()


def test_calibration__only_what_was_known_at_issue_counts(past: PastForecasts) -> None:
    at = past.rows.issued_at.min() + np.timedelta64(80, "D") + np.timedelta64(5, "h")
    known_at = past.rows.ends + np.timedelta64(LATE)
    expected = past.calibration(at).as_json()
    assert past.rows.actual is not None

    def with_changed(changed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> dict[str, object]:
        assert past.rows.actual is not None
        actual = np.where(changed, past.rows.actual * 50 + 1000, past.rows.actual)
        return replace(past, rows=replace(past.rows, actual=actual)).calibration(at).as_json()

    assert with_changed(known_at > at) == expected
    assert with_changed(known_at <= at - np.timedelta64(28, "D")) == expected
    assert with_changed(known_at == known_at.max()) == expected
    last_known = known_at == known_at[known_at <= at].max()
    assert with_changed(last_known | (known_at == at - np.timedelta64(27, "D"))) != expected


def test_calibration__of_nothing__moves_nothing(past: PastForecasts) -> None:
    at = past.rows.issued_at.min()
    quantiles = past.quantiles[:3]
    found = past.calibration(at).apply(past.rows.assets[:3], quantiles, past.row_levels[:3], HOUR)
    np.testing.assert_array_equal(found, quantiles)


@given(st.integers(0, 10_000))
def test_apply__any_offsets__quantiles_never_cross(seed: int) -> None:
    random = np.random.default_rng(seed)
    quantiles = np.sort(random.normal(0, 3, (4, 30, 3)), axis=-1)
    table = random.normal(0, 2, (2, int(buckets_of(30, HOUR)[-1]) + 1, 3))
    found = Calibration(table[0], {"a": table[1]}).apply(
        np.array(["a", "b", "a", "c"]), quantiles, random.random(4), HOUR
    )
    assert (np.diff(found, axis=-1) >= 0).all()


def test_calibration__json__gives_the_same_bits(past: PastForecasts) -> None:
    found = past.calibration(past.rows.issued_at.max())
    again = Calibration.of_json(found.as_json())
    arguments = (past.rows.assets[:9], past.quantiles[:9], past.row_levels[:9], HOUR)
    np.testing.assert_array_equal(again.apply(*arguments), found.apply(*arguments))


def test_widths__have_a_floor_of_the_level() -> None:
    assert widths(np.array([[[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]]]), np.array([10.0])).tolist() == [[3.5, 0.5]]


def test_buckets__short_horizons_and_steps() -> None:
    assert bucket_names(48, HOUR) == ["0-6 h", "6-12 h", "12-24 h", "24-36 h", "36-48 h"]
    assert bucket_names(30, HOUR)[-1] == "24-30 h"
    assert bucket_names(96, timedelta(minutes=15)) == ["0-6 h", "6-12 h", "12-24 h"]
    assert np.bincount(buckets_of(96, timedelta(minutes=15))).tolist() == [24, 24, 48]
    assert bucket_names(168, HOUR)[-1] == "120-168 h"

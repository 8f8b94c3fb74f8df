from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from mlflow.utils.validation import _validate_metric_name
from support.issue_rows import RECIPE, START, load, make_rows, step_values

from ai_hub.cli.training import _horizon_of, show_backtest
from ai_hub.errors import BadInputError
from ai_hub.forecasting import log
from ai_hub.forecasting.backtest import MODEL, NAIVE, Backtest, Meters, _warm_up, run
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.day_ahead_tracking import (
    backtest_metrics,
    backtest_plot,
    backtest_runs,
    forecast_rows,
)
from ai_hub.forecasting.issues import DAY, HOUR, WEEK, StepValues, instant, parse_duration

if TYPE_CHECKING:
    from ai_hub.forecasting.issues import Floats

WEEKS = 18
LEADS = 30
LATE = 2 * DAY
FROM = START + 14 * WEEK


def meters_of(values: StepValues) -> Meters:
    return Meters(values, dict.fromkeys(map(str, values.assets), LATE), {"a": 4.0})


def backtest_of(values: dict[str, Floats]) -> Backtest:
    known = step_values(values)
    return run(
        make_rows(known, leads=LEADS, delay=LATE), meters_of(known), RECIPE, start=FROM, refit=2 * WEEK
    )


@pytest.fixture(scope="module")
def values() -> dict[str, Floats]:
    random = np.random.default_rng(9)
    return {"a": load(random, WEEKS * 168), "b": load(random, WEEKS * 168, 300.0, 0.2)}


@pytest.fixture(scope="module")
def backtest(values: dict[str, Floats]) -> Backtest:
    return backtest_of(values)


def test_backtest__beats_naive_forecasts_and_its_bands_cover_what_they_say(backtest: Backtest) -> None:
    assert backtest.rows.issued_at.min() >= instant(FROM)
    assert list(backtest.by_lead) == ["0-6 h", "6-12 h", "12-24 h", "24-30 h"]
    assert set(backtest.by_asset) == {"a", "b"}
    for comparison in (backtest.overall, *backtest.by_lead.values(), *backtest.by_asset.values()):
        assert set(comparison.scores) == {MODEL, *NAIVE}
        assert {each.n for each in comparison.scores.values()} == {comparison.model.n}
        assert comparison.improvement > 0.1
    assert backtest.overall.model.coverage == pytest.approx(0.8, abs=0.05)
    assert sum(each.model.n for each in backtest.by_lead.values()) == backtest.overall.model.n
    # the noise of `a` is a tenth of a level of 2, of which its capacity is twice as much
    assert 0.015 < backtest.by_asset["a"].model.mae_over_capacity < 0.04
    assert np.isnan(backtest.by_asset["b"].model.mae_over_capacity)


def test_backtest_runs__have_the_bits_of_the_forecasts(backtest: Backtest) -> None:
    card = ModelCard("day_ahead", [], [], "electricity", ["a", "b"], "kW")
    runs = backtest_runs("tenant", "m", card, backtest, {"by": "test"})
    issues = np.unique(backtest.rows.issued_at)
    assert [instant(run.issued_at) for run, _ in runs] == list(issues)
    assert {(run.role, run.version, run.unit, run.leads) for run, _ in runs} == {
        ("backtest", None, "kW", LEADS)
    }
    found = {
        (row.asset_id, instant(run.issued_at), instant(row.target_time)): row
        for run, grid in runs
        for row in log.rows_of(run, grid)
    }
    rows, forecasts = backtest.rows, backtest.forecasts
    assert len(found) == len(rows) * LEADS
    for row in range(len(rows)):
        for lead in range(LEADS):
            kept = found[str(rows.assets[row]), rows.issued_at[row], rows.starts[row, lead]]
            assert kept.value == forecasts.values[row, lead]
            assert [kept.q10, kept.q50, kept.q90] == list(forecasts.quantiles[row, lead])


def test_backtest__what_is_not_known_at_issue__changes_no_bit(
    values: dict[str, Floats], backtest: Backtest
) -> None:
    at = np.unique(backtest.rows.issued_at)[17].astype(datetime).replace(tzinfo=UTC)
    hours = (at - START) // timedelta(hours=1)
    random = np.random.default_rng(1)

    def with_changed(first: int) -> Backtest:
        changed = {name: each.copy() for name, each in values.items()}
        for each in changed.values():
            each[first:] = random.normal(-50, 500, len(each) - first)
        return backtest_of(changed)

    # the hour that ends 48 hours before `at` is the last that is known then
    found = with_changed(hours - 48)
    until = backtest.rows.issued_at <= instant(at)
    assert 0 < until.sum() < len(until)
    np.testing.assert_array_equal(found.forecasts.values[until], backtest.forecasts.values[until])
    np.testing.assert_array_equal(found.forecasts.quantiles[until], backtest.forecasts.quantiles[until])
    for name, each in found.naive.items():
        np.testing.assert_array_equal(each[until], backtest.naive[name][until])
    assert not np.array_equal(found.forecasts.values[~until], backtest.forecasts.values[~until])
    # one hour more, and the issue at that time uses it
    known = {name: np.where(np.arange(len(each)) == hours - 49, 999, each) for name, each in values.items()}
    changed = make_rows(step_values(known), leads=LEADS, delay=LATE)
    of_issue = changed.issued_at == instant(at)
    assert (
        changed.take(of_issue).scalars["mean_7d"]
        != backtest.past.rows.take(backtest.past.rows.issued_at == instant(at)).scalars["mean_7d"]
    ).all()


def test_backtest__values_that_arrived_after_the_issue__change_no_bit(values: dict[str, Floats]) -> None:
    known = step_values(values)
    hours = np.where(np.random.default_rng(3).random(known.values.shape) < 0.1, 200.5, 6.5)
    hours[1] = np.nan  # by the rule
    # features stay as they are, because only what is made of values is tested here
    plain = make_rows(known, leads=LEADS, delay=LATE)

    def backtest_with(of: StepValues) -> Backtest:
        meters = replace(meters_of(of), arrived=replace(known, values=hours))
        actual = of.at(plain.assets, plain.starts)
        rows = replace(plain, actual=actual, actual_known=meters.known_at(plain))
        return run(rows, meters, RECIPE, start=FROM, refit=2 * WEEK)

    before = backtest_with(known)
    at = np.unique(before.rows.issued_at)[17]
    ends = known.start + (np.arange(known.values.shape[1]) + 1) * np.timedelta64(HOUR)
    late = np.where(np.isnan(hours), LATE / HOUR, hours)
    unknown = ends + (late * 3600e6).astype("timedelta64[us]") > at
    assert (unknown & (ends + np.timedelta64(LATE) <= at))[0].any()
    changed = np.where(unknown, np.random.default_rng(4).normal(-50, 500, unknown.shape), known.values)
    after = backtest_with(replace(known, values=changed))
    until = before.rows.issued_at <= at
    np.testing.assert_array_equal(after.forecasts.values[until], before.forecasts.values[until])
    np.testing.assert_array_equal(after.forecasts.quantiles[until], before.forecasts.quantiles[until])
    for name, each in after.naive.items():
        np.testing.assert_array_equal(each[until], before.naive[name][until])
        assert not np.array_equal(each[~until], before.naive[name][~until])


def test_backtest__values_that_all_arrived_late__has_naive_forecasts_and_a_warm_up_as_by_the_rule(
    values: dict[str, Floats],
) -> None:
    known, late = step_values(values), 9 * DAY
    plain = make_rows(known, leads=LEADS, delay=LATE)
    hours = np.full(known.values.shape, late / HOUR)
    # a few were corrected long after
    hours[np.random.default_rng(3).random(hours.shape) < 0.02] = 100 * DAY / HOUR
    meters = Meters(known, {}, {}, replace(known, values=hours))
    rows = replace(plain, actual_known=meters.known_at(plain))
    by_rule = np.full(len(rows), np.timedelta64(late))
    warm_up = _warm_up(plain, RECIPE, instant(FROM), by_rule)
    assert warm_up < instant(FROM - 37 * DAY)
    assert _warm_up(rows, RECIPE, instant(FROM), meters.delays(rows)) == warm_up
    found = run(rows, meters, RECIPE, start=FROM)
    assert found.overall.model.n > 0.95 * np.isfinite(found.rows.actual).sum()


def test_backtest__days_of_delivery__count_alone(values: dict[str, Floats]) -> None:
    known = step_values(values)
    rows = make_rows(known, leads=LEADS)
    delivered = np.zeros((len(rows), LEADS), bool)
    delivered[:, 3:5] = True
    found = run(rows, meters_of(known), RECIPE, start=FROM + 3 * WEEK, delivered=delivered)
    assert found.overall.model.n == np.isfinite(found.rows.actual[:, 3:5]).sum()  # type: ignore[index]
    assert list(found.by_lead) == ["0-6 h"]


def test_backtest__no_issues_in_its_time__is_refused(values: dict[str, Floats]) -> None:
    known = step_values(values)
    with pytest.raises(BadInputError, match="no issues from"):
        run(make_rows(known, leads=LEADS), meters_of(known), RECIPE, start=START + 100 * WEEK)


def test_backtest__plain_values__have_no_nan(backtest: Backtest) -> None:
    found = backtest.as_dict()
    assert found["issues"] == len(backtest.rows)
    assert found["overall"][MODEL]["coverage"] == backtest.overall.model.coverage
    assert "mae_over_capacity" not in found["by_asset"]["b"][MODEL]


CARD = ModelCard(
    "day_ahead", [], [], "electricity", ["a", "b"], "kW", horizon_hours=30, quantiles=[0.1, 0.5, 0.9]
)


def test_backtest__shown__has_a_line_of_each_forecast_and_lead(
    backtest: Backtest, capsys: pytest.CaptureFixture[str]
) -> None:
    show_backtest("day-ahead-electricity of grid", CARD, backtest)
    output = capsys.readouterr().out
    assert "nan" not in output
    lines = [line.split() for line in output.splitlines()]
    assert [line[0] for line in lines if "model" in line] == ["0-6", "6-12", "12-24", "24-30", "all"]
    (overall,) = (line for line in lines if line[:2] == ["all", "model"])
    model = backtest.overall.model
    assert overall[2:4] == [f"{model.n:,}", f"{model.mae:.3f}"]
    assert "which should be 80%" in output


def test_backtest__as_metrics__are_names_and_numbers_that_mlflow_takes(backtest: Backtest) -> None:
    found = backtest_metrics(backtest)
    for name, value in found.items():
        _validate_metric_name(name)
        assert math.isfinite(value)
    assert found["mae"] == backtest.overall.model.mae
    assert found["lead.24-30_h.coverage"] == backtest.by_lead["24-30 h"].model.coverage
    assert found["baseline_mae"] == min(backtest.overall.scores[name].mae for name in NAIVE)


def test_backtest__rows_and_picture__are_of_the_targets_that_count(backtest: Backtest) -> None:
    rows = forecast_rows(backtest)
    assert len(rows) == backtest.overall.model.n
    assert (rows["forecast"] - rows["actual"]).abs().mean() == pytest.approx(backtest.overall.model.mae)
    assert (rows["q0.1"] <= rows["q0.9"]).all()
    figure = backtest_plot(backtest, title="a backtest")
    errors, coverage, *assets = figure.axes
    assert [line.get_label() for line in errors.get_lines()] == [MODEL, *NAIVE]
    assert len(coverage.get_lines()[0].get_xdata()) == LEADS
    assert [axis.get_title().partition(":")[0] for axis in assets] == ["a", "b"]


def test_backtest__bands__are_those_that_a_model_fitted_then_would_serve(backtest: Backtest) -> None:
    past = backtest.past
    for weeks in (0, 2):
        origin = instant(FROM + weeks * WEEK)
        until = origin + np.timedelta64(2 * WEEK)
        issues = past.rows.issued_at
        part = (issues >= origin) & (issues < until)
        expected = past.calibration(origin).apply(
            past.rows.assets[part], past.quantiles[part], past.row_levels[part], HOUR
        )
        counted = (backtest.rows.issued_at >= origin) & (backtest.rows.issued_at < until)
        found = backtest.forecasts.quantiles[counted]
        assert len(found) == 2 * 14
        np.testing.assert_array_equal(found, np.maximum(expected, 0))
        np.testing.assert_array_equal(backtest.forecasts.values[counted], found[..., 1])


def test_backtest__issues_before_the_first_reading__are_no_history() -> None:
    random = np.random.default_rng(2)
    known = step_values({"a": np.append(np.full(8 * 168, np.nan), load(random, 6 * 168))})
    found = run(make_rows(known, leads=LEADS), meters_of(known), RECIPE, start=START + 10 * WEEK)
    assert found.overall.model.mae < 0.25  # fitted to a week
    assert found.overall.model.n > 20 * LEADS


def test_backtest__meters_that_are_zero_or_constant__stay_so_beside_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    random = np.random.default_rng(8)
    hours = 10 * 168
    known = step_values({"a": load(random, hours), "flat": np.full(hours, 5.0), "zero": np.zeros(hours)})
    found = run(make_rows(known, leads=LEADS), meters_of(known), RECIPE, start=START + 8 * WEEK)
    for name, value in (("flat", 5.0), ("zero", 0.0)):
        of_asset = found.rows.assets == name
        assert found.forecasts.values[of_asset] == pytest.approx(value, abs=0.25)
        assert found.by_asset[name].model.n > 0
    assert (found.forecasts.quantiles[found.rows.assets == "zero"] == 0).all()
    assert found.by_asset["a"].model.mae < 0.2
    assert all(map(math.isfinite, backtest_metrics(found).values()))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["issues"] == len(found.rows)
    figure = backtest_plot(found, title="three meters")
    assert figure.axes[-1].get_title() == "zero: MAE 0"  # a band without a width covers nothing
    show_backtest("three meters", CARD, found)
    assert "nan" not in capsys.readouterr().out


def test_backtest__all_values_zero__is_said() -> None:
    known = step_values({"a": np.zeros(8 * 168)})
    with pytest.raises(BadInputError, match="All values of the meters are zero"):
        run(make_rows(known, leads=LEADS), meters_of(known), RECIPE, start=START + 6 * WEEK)


def test_backtest__picture_of_nothing_but_zeros_in_the_tested_weeks__has_errors_in_the_unit() -> None:
    random = np.random.default_rng(8)
    known = step_values({"a": np.append(load(random, 6 * 168), np.zeros(2 * 168))})
    found = run(
        make_rows(known, leads=LEADS), meters_of(known), RECIPE, start=START + 6 * WEEK + timedelta(hours=1)
    )
    figure = backtest_plot(found, title="off")
    assert figure.axes[0].get_ylabel() == "MAE"


def test_horizon__of_a_card_in_minutes__is_read_again() -> None:
    card = ModelCard("day_ahead", [], [], "electricity", ["a"], "kW", horizon_hours=1.5)
    assert parse_duration(_horizon_of(card), "--horizon") == timedelta(minutes=90)
    assert parse_duration(_horizon_of(CARD), "--horizon") == timedelta(hours=30)

"""Wind turbines, whose power follows the forecast of the wind, and monotone constraints."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from oracles.leads import wind_power
from support.issue_rows import RECIPE, START, load, make_rows, step_values

from ai_hub.errors import BadInputError
from ai_hub.forecasting import backtest
from ai_hub.forecasting.backtest import Meters
from ai_hub.forecasting.day_ahead import DayAheadModel, Recipe, as_monotone, fit
from ai_hub.forecasting.explanation import explain
from ai_hub.forecasting.issues import Floats, Inputs, IssueRows
from feast_plugins.windows import WindPower

if TYPE_CHECKING:
    from pathlib import Path

    from ai_hub.forecasting.issues import StepValues
    from ai_hub.forecasting.scores import Scores

HOURS = 20 * 168
LEADS = 36
#: What the features know of turbines, and what turbines they are.
DEFAULT, ACTUAL = WindPower().as_json(), WindPower(120, cut_in=2.5, rated=13, cut_out=23, shear=0.2).as_json()


def with_arrays(*names: str) -> Recipe:
    inputs = RECIPE.inputs
    arrays = Inputs(inputs.scalars, (*inputs.arrays, *names), inputs.in_unit, inputs.usual)
    return Recipe(arrays, wind="wind_power" if "wind_power" in names else None)


WIND, SPEED = with_arrays("wind_speed", "wind_power"), with_arrays("wind_speed")


def power(speeds: Floats, of: dict[str, float]) -> Floats:
    return np.array([wind_power(speed, of) for speed in speeds])


def weather(random: np.random.Generator) -> Floats:
    """Hourly wind speeds in m/s: log-normal, half gone after a day."""
    found, state = np.empty(HOURS), 0.0
    for hour, step in enumerate(random.normal(0, 1, HOURS)):
        state = 0.97 * state + np.sqrt(1 - 0.97**2) * step
        found[hour] = np.exp(np.log(5.5) + 0.45 * state)
    return found


@pytest.fixture(scope="module")
def park() -> tuple[IssueRows, StepValues]:
    """Three turbines of other sizes and another make than the features know, and a load beside them."""
    random = np.random.default_rng(7)
    values, forecasts = {}, {}
    for number in range(3):
        speeds = weather(random)
        name = f"turbine-{number}"
        values[name] = 1500.0 * (number + 1) * power(speeds, ACTUAL) * random.uniform(0.9, 1, HOURS)
        # weather forecasts err
        forecasts[name] = speeds * np.exp(random.normal(0, 0.1, HOURS))
    values["load"], forecasts["load"] = load(random, HOURS, 40.0), forecasts["turbine-0"]
    steps = step_values(values)
    arrays = {
        "wind_speed": step_values(forecasts),
        "wind_power": step_values({name: power(each, DEFAULT) for name, each in forecasts.items()}),
    }
    return make_rows(steps, leads=LEADS, arrays=arrays), steps


def scores(park: tuple[IssueRows, StepValues], recipe: Recipe, *names: str) -> Scores:
    rows, values = park
    found = backtest.run(
        rows.take(np.isin(rows.assets, names)),
        Meters(values, {}, {}),
        recipe,
        start=START + timedelta(weeks=16),
    )
    return found.overall.model


def test_wind__turbines_are_forecast_better_than_by_the_speed_alone(
    park: tuple[IssueRows, StepValues],
) -> None:
    turbines = ("turbine-0", "turbine-1", "turbine-2")
    without, by_speed, by_power = (scores(park, each, *turbines) for each in (RECIPE, SPEED, WIND))
    assert by_speed.mae < 0.8 * without.mae
    assert by_power.mae < 0.6 * by_speed.mae
    assert by_power.pinball < 0.6 * by_speed.pinball
    # of four weeks alone, in which the weather was another one
    assert by_power.coverage == pytest.approx(0.8, abs=0.07)


def test_wind__a_load_beside_turbines__is_forecast_as_without_them(
    park: tuple[IssueRows, StepValues], tmp_path: Path
) -> None:
    rows, _ = park
    model = fit(rows, WIND)
    assert {name for name, each in model.traits.items() if each.rated is not None} == {
        "turbine-0",
        "turbine-1",
        "turbine-2",
    }
    alone = rows.take(rows.assets == "load")
    np.testing.assert_array_equal(
        fit(alone, WIND).forecast(alone).quantiles,
        fit(alone, replace(WIND, wind=None)).forecast(alone).quantiles,
    )
    model.save(tmp_path)
    again = DayAheadModel.load(tmp_path)
    assert again.recipe == model.recipe
    assert again.traits == model.traits
    np.testing.assert_array_equal(again.forecast(rows).quantiles, model.forecast(rows).quantiles)


def test_wind__speeds_that_are_not_known__leave_what_is_usual(park: tuple[IssueRows, StepValues]) -> None:
    rows, _ = park
    model = fit(rows, WIND)
    unknown = {name: np.full_like(rows.arrays[name], np.nan) for name in ("wind_speed", "wind_power")}
    dark = replace(rows, arrays={**rows.arrays, **unknown})
    assert np.isfinite(model.forecast(dark).values).all()
    turbine = rows.assets != "load"
    np.testing.assert_array_equal(model.lacks_wind(dark), turbine)
    known = rows.take(np.isfinite(rows.arrays["wind_power"]).all(axis=1))
    assert not model.lacks_wind(known).any()
    # a feed that is dead for hours: what was observed fills the first ones
    dead = known.arrays["wind_power"].copy()
    dead[:, 6:] = np.nan
    known = replace(known, arrays={**known.arrays, "wind_power": dead})
    np.testing.assert_array_equal(model.lacks_wind(known), known.assets != "load")
    assert not model.lacks_wind(known, 6).any()


def test_wind__assets_that_it_was_not_fitted_to__are_said_to_lack_it(
    park: tuple[IssueRows, StepValues], tmp_path: Path
) -> None:
    rows, _ = park
    rows = rows.take(np.isfinite(rows.arrays["wind_power"]).all(axis=1))
    fit(rows.take(rows.assets != "turbine-2"), WIND).save(tmp_path)
    model = DayAheadModel.load(tmp_path)
    np.testing.assert_array_equal(model.lacks_wind(rows), rows.assets == "turbine-2")
    loads = fit(rows.take(rows.assets == "load"), WIND)
    assert not loads.lacks_wind(rows).any()


def test_wind__few_values_that_go_with_it__are_of_no_turbine(park: tuple[IssueRows, StepValues]) -> None:
    rows, _ = park
    assert rows.actual is not None
    turbine = rows.take(rows.assets == "turbine-0")
    days = {}
    for count in (5, 60):
        few = np.where(np.arange(len(turbine))[:, None] < count, turbine.actual, np.nan)
        days[count] = fit(replace(turbine, actual=few), WIND).traits["turbine-0"].rated
    assert days[5] is None
    assert days[60] == pytest.approx(1500, rel=0.4)


def test_calibration__an_asset_that_is_no_turbine_any_more__takes_that_of_all(
    park: tuple[IssueRows, StepValues],
) -> None:
    rows, values = park
    found = backtest.run(rows, Meters(values, {}, {}), WIND, start=START + timedelta(weeks=16))
    past, at = found.past, rows.issued_at.max()
    np.testing.assert_array_equal(past.by_wind, past.rows.assets != "load")
    usual = past.calibration(at)
    now = past.by_wind & (past.rows.assets != "turbine-1")
    changed = past.calibration(at, now)
    np.testing.assert_array_equal(changed.pooled, usual.pooled)
    for name in np.unique(past.rows.assets):
        expected = usual.pooled if name == "turbine-1" else usual.by_asset[name]
        np.testing.assert_array_equal(changed.by_asset[name], expected)
    assert (usual.by_asset["turbine-1"] != usual.pooled).any()


@pytest.mark.parametrize("point", ["median", "mean"])
def test_monotone__forecasts_never_fall_as_the_feature_rises(
    park: tuple[IssueRows, StepValues], point: str, tmp_path: Path
) -> None:
    rows, values = park
    recipe = replace(SPEED, monotone={"wind_speed": 1, "hour_of_day": -1}, point=point)
    found = backtest.run(rows, Meters(values, {}, {}), recipe, start=START + timedelta(weeks=16))
    assert found.overall.model.coverage > 0.6
    model = replace(fit(rows, recipe), calibration=found.past.calibration(rows.issued_at.max()))
    model.save(tmp_path)
    model = DayAheadModel.load(tmp_path)
    some = rows.take(slice(0, None, 7))
    for name, rising in (("wind_speed", np.linspace(0, 30, 21)), ("hour_of_day", np.arange(23.0, -1, -1))):
        quantiles = []
        for value in rising:
            same = {**some.arrays, name: np.full_like(some.arrays[name], value)}
            forecasts = model.forecast(replace(some, arrays=same))
            quantiles.append(np.concatenate([forecasts.values[..., None], forecasts.quantiles], axis=-1))
        steps = np.diff(np.array(quantiles), axis=0)
        assert (steps >= 0).all()
        assert (steps > 0).any()
    # trees without the constraint do fall
    free = fit(rows, SPEED)
    speeds = [
        free.forecast(replace(some, arrays={**some.arrays, "wind_speed": np.full_like(each, value)})).values
        for each in (some.arrays["wind_speed"],)
        for value in np.linspace(0, 30, 21)
    ]
    assert (np.diff(np.array(speeds), axis=0) < 0).any()


@pytest.mark.parametrize("monotone", [{}, {"wind_power": 1}])
def test_explanation__of_a_turbine__adds_up(
    park: tuple[IssueRows, StepValues], monotone: dict[str, int]
) -> None:
    rows, _ = park
    model = fit(rows, replace(WIND, monotone=monotone))
    row = rows.take(np.flatnonzero(rows.assets == "turbine-1")[-1:])
    expected = model.forecast(row)
    for quantile, values in ((None, expected.values), (0.9, expected.quantiles[..., 2])):
        found = explain(model, row, 7, quantile).contributions
        assert found.base[0] + found.values.sum() == pytest.approx(values[0, 7])


def test_monotone__what_is_no_feature_with_a_sign__is_refused() -> None:
    assert as_monotone(["target_temperature:-", "price:+"]) == {"target_temperature": -1, "price": 1}
    for texts in (["temperature"], ["temperature:up"], [":+"], ["a:+", "a:-"]):
        with pytest.raises(BadInputError, match="no feature with a sign"):
            as_monotone(texts)
    with pytest.raises(BadInputError, match="names moon, and the feature service has no such feature"):
        replace(RECIPE, monotone={"moon": 1})
    with pytest.raises(BadInputError, match="names mean_7d, by which forecasts are scaled"):
        replace(RECIPE, monotone={"mean_7d": 1})
    with pytest.raises(BadInputError, match="wind_power:- would not hold: what wind turbines generate"):
        replace(WIND, monotone={"wind_power": -1})
    with pytest.raises(BadInputError, match="hour_of_day:- would not hold: what generates by the sun"):
        replace(RECIPE, monotone={"hour_of_day": -1}, elevation="hour_of_day")

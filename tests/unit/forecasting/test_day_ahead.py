from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import lightgbm as lgb
import numpy as np
import pytest
from support.issue_rows import IN_UNIT, RECIPE, START, load, make_rows, step_values

from ai_hub.errors import BadInputError
from ai_hub.forecasting import day_ahead
from ai_hub.forecasting.calibration import Calibration
from ai_hub.forecasting.day_ahead import DayAheadModel, Recipe, Traits, as_levels, fit
from ai_hub.forecasting.day_ahead_training import Horizon, train_day_ahead
from ai_hub.forecasting.issues import HOUR, Floats, Inputs, IssueRows, StepValues
from ai_hub.forecasting.train import TrainingPlan

if TYPE_CHECKING:
    from pathlib import Path

WEEKS = 10
HOURS = WEEKS * 168
LEADS = 26
SUN = Recipe(
    Inputs(
        ("mean_7d",), ("same_hour_1d", "same_hour_7d", "elevation"), frozenset(IN_UNIT), frozenset(IN_UNIT)
    ),
    elevation="elevation",
)
ELEVATION = 40 * np.sin((np.arange(HOURS + LEADS + 24) / 24 - 0.25) * 2 * np.pi) - 5
#: Irradiance, between 0 and 1.
SUNSHINE = np.clip(np.sin(np.radians((ELEVATION + np.roll(ELEVATION, -1)) / 2)), 0, None)[:HOURS]


def below_the_sun(values: dict[str, Floats]) -> IssueRows:
    elevation = step_values(dict.fromkeys(values, ELEVATION), START)
    return make_rows(step_values(values), leads=LEADS, arrays={"elevation": elevation})


@pytest.fixture(scope="module")
def values() -> StepValues:
    random = np.random.default_rng(3)
    net = load(random, HOURS) - 2.2  # below zero at times
    return step_values({"small": load(random, HOURS), "large": load(random, HOURS, 5000.0), "net": net})


@pytest.fixture(scope="module")
def rows(values: StepValues) -> IssueRows:
    return make_rows(values, leads=LEADS)


@pytest.fixture(scope="module")
def model(rows: IssueRows) -> DayAheadModel:
    return fit(rows, RECIPE)


def test_fit__meters_of_all_sizes__are_forecast_within_their_noise(
    rows: IssueRows, model: DayAheadModel
) -> None:
    found = model.forecast(rows)
    assert rows.actual is not None
    for name, noise in (("small", 0.1), ("large", 500.0), ("net", 0.1)):
        of_asset = rows.assets == name
        error = np.abs(found.values - rows.actual)[of_asset]
        assert np.nanmean(error) < noise
    assert found.levels == (0.1, 0.5, 0.9)
    assert np.nanmin(found.values[rows.assets == "net"]) < -0.5
    assert np.nanmin(found.quantiles[rows.assets != "net"]) >= 0


def test_forecast__quantiles_never_cross(rows: IssueRows, model: DayAheadModel) -> None:
    random = np.random.default_rng(5)
    odd = replace(
        rows,
        arrays={name: each * random.normal(1, 3, each.shape) for name, each in rows.arrays.items()},
        scalars={name: each * random.normal(1, 3, each.shape) for name, each in rows.scalars.items()},
    )
    assert (np.diff(model.forecast(odd).quantiles, axis=-1) >= 0).all()
    assert (np.diff(model.uncalibrated(odd).quantiles, axis=-1) >= 0).all()


def test_fit__twice_and_read_from_files__gives_the_same_bits(
    rows: IssueRows, model: DayAheadModel, tmp_path: Path
) -> None:
    again = fit(rows, RECIPE)
    model.save(tmp_path / "model")
    loaded = DayAheadModel.load(tmp_path / "model")
    assert (loaded.recipe, loaded.step, loaded.leads) == (RECIPE, HOUR, LEADS)
    expected = model.forecast(rows)
    for other in (again, loaded):
        found = other.forecast(rows)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.quantiles, expected.quantiles)


def test_fit__more_rows_than_bins_are_made_of__gives_the_bits_of_lightgbm_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The seed draws the rows by which values are put into bins; LightGBM takes 200,000."""
    monkeypatch.setattr(day_ahead, "ROUNDS", 3)
    random = np.random.default_rng(8)
    x = random.normal(size=(210_000, 2)).astype(np.float32)
    target = x[:, 0] + random.normal(size=len(x))
    recipe = Recipe(Inputs((), ("one",), frozenset(), frozenset()), levels=(0.5,))
    (found,) = day_ahead._boosters(x, target, recipe)
    parameters = {**day_ahead._PARAMETERS, "objective": "quantile", "alpha": 0.5}
    oracle = lgb.train(parameters, lgb.Dataset(x, target), num_boost_round=3)
    np.testing.assert_array_equal(found.predict(x), oracle.predict(x))


def test_forecast__few_rows_of_many__are_the_same(rows: IssueRows, model: DayAheadModel) -> None:
    some = np.arange(len(rows))[::17]
    np.testing.assert_array_equal(model.forecast(rows.take(some)).values, model.forecast(rows).values[some])


def test_forecast__nothing_known_of_a_meter__is_nothing_and_zero_stays_zero(
    rows: IssueRows, model: DayAheadModel
) -> None:
    two = rows.take(np.array([0, 1]))
    unknown = np.array([np.nan, 0.0])
    found = model.forecast(
        replace(
            two,
            scalars={"mean_7d": unknown},
            arrays={
                name: np.broadcast_to(unknown[:, None], each.shape) if name in IN_UNIT else each
                for name, each in two.arrays.items()
            },
        )
    )
    assert np.isnan(found.values[0]).all()
    assert np.isnan(found.quantiles[0]).all()
    assert (found.values[1] == 0).all()
    assert (found.quantiles[1] == 0).all()


def test_forecast__rows_of_another_step_or_horizon__are_refused(
    rows: IssueRows, model: DayAheadModel
) -> None:
    with pytest.raises(ValueError, match="a model of 26"):
        model.forecast(replace(rows, step=HOUR / 4))
    with pytest.raises(ValueError, match="rows of 25 steps"):
        model.forecast(
            replace(rows, arrays={name: each[:, 1:] for name, each in rows.arrays.items()}, actual=None)
        )


def test_fit__no_known_target__is_refused(rows: IssueRows) -> None:
    assert rows.actual is not None
    with pytest.raises(BadInputError, match="no issues whose targets are known"):
        fit(replace(rows, actual=np.full_like(rows.actual, np.nan)), RECIPE)


@pytest.fixture(scope="module")
def solar() -> tuple[IssueRows, DayAheadModel]:
    """A plant that also takes a little power at night, and a load in the same place."""
    random = np.random.default_rng(11)
    plant = 100 * SUNSHINE * random.uniform(0.3, 1, HOURS)
    plant -= 0.002 * (SUNSHINE == 0) * random.random(HOURS)
    plant[495] = -3  # a fault
    rows = below_the_sun({"load": load(random, HOURS), "plant": plant})
    return rows, fit(rows, SUN)


def test_solar__is_zero_at_night_without_a_band_and_load_is_not(
    solar: tuple[IssueRows, DayAheadModel],
) -> None:
    rows, model = solar
    found = model.forecast(rows)
    elevation = rows.arrays["elevation"]
    night = (elevation[:, :-1] < -1) & (elevation[:, 1:] < -1)
    plant = rows.assets == "plant"
    at_night = found.quantiles[plant, :-1][night[plant]]
    assert at_night.size > 1000
    assert (at_night == 0).all()
    assert (found.values[plant, :-1][night[plant]] == 0).all()
    assert found.values[plant].max() > 30
    assert (found.values[~plant, :-1][night[~plant]] > 0).all()
    # dawn and dusk are no night: the sun is up for a part of the step
    assert (model.night(rows)[:, :-1] == night)[plant].all()


def test_solar__elevation_that_is_not_known__is_no_night(solar: tuple[IssueRows, DayAheadModel]) -> None:
    rows, model = solar
    unknown = replace(
        rows, arrays={**rows.arrays, "elevation": np.full_like(rows.arrays["elevation"], np.nan)}
    )
    assert not model.night(unknown).any()
    assert np.isfinite(model.forecast(unknown).values).all()


def test_traits__meters_with_values_below_zero__are_known(
    model: DayAheadModel, solar: tuple[IssueRows, DayAheadModel]
) -> None:
    assert model.traits == {
        "small": Traits(nonnegative=True),
        "large": Traits(nonnegative=True),
        "net": Traits(),
    }
    assert not solar[1].traits["load"].dark_at_night


def test_levels__are_numbers_between_0_and_1() -> None:
    assert as_levels("0.9,0.1, 0.5") == (0.1, 0.5, 0.9)
    for text in ("", "0.1,0.1", "0,1", "half", "0.5,nan", "0.5,0.50000001"):
        with pytest.raises(BadInputError, match="no quantiles"):
            as_levels(text)


def test_horizon__without_a_quantile_of_the_log__is_refused() -> None:
    assert Horizon(levels=(0.05, 0.1, 0.5, 0.9, 0.95)).levels[-1] == 0.95
    for levels in ((0.2, 0.5, 0.8), (0.1, 0.9), (0.5,)):
        with pytest.raises(BadInputError, match="which the log of forecasts keeps"):
            Horizon(levels=levels)


def test_train__all_weeks_held_out__is_refused_before_anything_is_read() -> None:
    plan = TrainingPlan("t", "day_ahead", "electricity", ("a",), "model", weeks=4, holdout_weeks=4)
    with pytest.raises(BadInputError, match="4 weeks of which 4 are tested leave nothing to fit to"):
        train_day_ahead(cast("Any", None), plan, Horizon(), lambda _: None)


@pytest.mark.parametrize("every", [1, 2, 3, 4, 8])
def test_fit__more_rows_than_it_takes__all_leads_and_hours_of_the_day_take_part(
    rows: IssueRows, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = -(-len(rows) * LEADS // every)
    monkeypatch.setattr(day_ahead, "MOST_ROWS", most)
    leads = day_ahead._sampled_leads(rows)
    assert leads.shape == (len(rows), LEADS // every)
    assert (np.diff(leads, axis=1) > 0).all()
    for name in np.unique(rows.assets):
        of_asset = rows.assets == name
        assert set(leads[of_asset].flat) == set(range(LEADS))
        hours = np.take_along_axis(rows.starts, leads, axis=1)[of_asset].astype("datetime64[h]")
        assert set((hours.astype(np.int64) % 24).flat) == set(range(24))


def test_traits__a_spike_or_little_load_at_night__is_no_solar_plant() -> None:
    random = np.random.default_rng(4)
    shop = np.where(SUNSHINE > 0, random.uniform(50, 100, HOURS), 0.9)
    values = {
        "load": load(random, HOURS),
        "plant": 100 * SUNSHINE * random.uniform(0.3, 1, HOURS),
        "plant with a spike": 100 * SUNSHINE * random.uniform(0.3, 1, HOURS),
        "shop": shop,
    }
    for name in ("load", "plant with a spike"):
        values[name][492] = 4294967.295  # at noon: what a meter says that does not know
    found = day_ahead._traits(below_the_sun(values), SUN)
    assert {name for name, each in found.items() if each.dark_at_night} == {"plant", "plant with a spike"}


def test_forecast__median__is_the_quantile_within_its_band(rows: IssueRows, model: DayAheadModel) -> None:
    assert model.point is None
    buckets = Calibration.none(LEADS, HOUR, 3).pooled.shape[0]
    offsets = np.tile([0.5, 2.0, 2.1], (buckets, 1))  # the old median is below this band
    found = replace(model, calibration=Calibration(offsets, {})).forecast(rows)
    np.testing.assert_array_equal(found.values, found.quantiles[..., 1])
    assert (found.values > model.forecast(rows).values).any()


def test_forecast__mean__is_a_booster_of_its_own_without_bias(rows: IssueRows, tmp_path: Path) -> None:
    small = rows.take(rows.assets == "small")
    assert small.actual is not None
    skewed = small.actual * np.random.default_rng(6).gamma(0.5, 2, small.actual.shape)
    known = np.isfinite(skewed)
    rows = replace(small, actual=skewed)
    fitted = {point: fit(rows, replace(RECIPE, point=point)) for point in ("median", "mean")}
    sums = {point: each.forecast(rows).values[known].sum() for point, each in fitted.items()}
    assert sums["mean"] == pytest.approx(skewed[known].sum(), rel=0.05)
    assert sums["median"] < 0.7 * skewed[known].sum()
    fitted["mean"].save(tmp_path / "model")
    again = DayAheadModel.load(tmp_path / "model").forecast(small)
    np.testing.assert_array_equal(again.values, fitted["mean"].forecast(small).values)

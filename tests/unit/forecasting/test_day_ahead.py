from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.issue_rows import IN_UNIT, RECIPE, START, load, make_rows, step_values

from ai_hub.errors import BadInputError
from ai_hub.forecasting.day_ahead import DayAheadModel, Recipe, Traits, as_levels, fit
from ai_hub.forecasting.issues import HOUR, Inputs, IssueRows, StepValues

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
    hour = np.arange(HOURS + LEADS + 24)
    elevation = 40 * np.sin((hour / 24 - 0.25) * 2 * np.pi) - 5
    sun = np.clip(np.sin(np.radians((elevation + np.roll(elevation, -1)) / 2)), 0, None)[:HOURS]
    plant = 100 * sun * random.uniform(0.3, 1, HOURS) - 0.002 * (sun == 0) * random.random(HOURS)
    plant[495] = -3  # a fault
    rows = make_rows(
        step_values({"load": load(random, HOURS), "plant": plant}),
        leads=LEADS,
        arrays={"elevation": step_values({"load": elevation, "plant": elevation}, START)},
    )
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
    for text in ("", "0.1,0.1", "0,1", "half", "0.5,nan"):
        with pytest.raises(BadInputError, match="no quantiles"):
            as_levels(text)

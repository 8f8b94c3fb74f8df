"""Contributions to a step of a forecast add up to it, and are Shapley values of the trees."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from oracles.shapley import shapley_values
from support.issue_rows import RECIPE, load, make_rows, step_values

from ai_hub.errors import BadInputError, ConflictError
from ai_hub.forecasting.calibration import Calibration
from ai_hub.forecasting.day_ahead import DayAheadModel, Traits, fit
from ai_hub.forecasting.explanation import BOUNDS, CALIBRATION, explain
from ai_hub.forecasting.issues import baseline, level, matrix

if TYPE_CHECKING:
    from ai_hub.forecasting.issues import IssueRows

LEADS = 26
LEVELS = RECIPE.levels


@pytest.fixture(scope="module")
def rows() -> IssueRows:
    drawn = np.random.default_rng(3)
    return make_rows(
        step_values({"small": load(drawn, 8 * 168), "net": load(drawn, 8 * 168) - 2.2}), leads=LEADS
    )


@pytest.fixture(scope="module")
def model(rows: IssueRows) -> DayAheadModel:
    made = fit(rows, replace(RECIPE, point="mean"))
    offsets = np.zeros_like(made.calibration.pooled)
    offsets[:, 0], offsets[:, -1] = -0.1, 0.2
    return replace(made, calibration=Calibration(offsets, {}))


@pytest.mark.parametrize("quantile", [None, *LEVELS])
def test_contributions__add_up_to_the_forecast(
    rows: IssueRows, model: DayAheadModel, quantile: float | None
) -> None:
    final = model.forecast(rows)
    for number in (40, 41, len(rows) - 1):
        row = rows.take(slice(number, number + 1))
        for lead in (0, 7, LEADS - 1):
            found = explain(model, row, lead, quantile)
            of = found.contributions
            expected = (
                final.values[number, lead]
                if quantile is None
                else final.quantiles[number, lead, LEVELS.index(quantile)]
            )
            assert of.prediction[0] == expected
            assert of.base[0] + of.values.sum() == pytest.approx(expected, abs=1e-9)
            assert found.given["lead_hours"] == lead
            for name, each in row.arrays.items():
                assert found.given[name] == pytest.approx(each[0, lead], nan_ok=True)


def test_contributions_of_features__are_shapley_values_in_the_unit_of_the_forecast(
    rows: IssueRows, model: DayAheadModel
) -> None:
    row, lead = rows.take(slice(50, 51)), 9
    inputs = model.recipe.inputs
    size = level(row, inputs)
    x = matrix(row, np.array([[lead]]), inputs, size)
    assert model.point is not None
    mean, values = shapley_values(model.point.dump_model(), [float(each) for each in x[0]])
    found = explain(model, row, lead, None)
    names = dict(zip(found.columns, found.contributions.values[0], strict=True))
    names.pop(BOUNDS, None)
    assert list(names) == inputs.columns
    np.testing.assert_allclose(list(names.values()), size[0] * np.array(values), atol=1e-9)
    assert found.contributions.base[0] == pytest.approx(baseline(row, inputs)[0, lead] + size[0] * mean)


def test_quantiles_that_cross__are_those_of_the_booster_that_says_them(
    rows: IssueRows, model: DayAheadModel
) -> None:
    # the boosters in the wrong order: each forecast is another one's
    turned = replace(
        model, quantiles=model.quantiles[::-1], calibration=Calibration.none(LEADS, rows.step, 3)
    )
    plain = replace(model, calibration=Calibration.none(LEADS, rows.step, 3))
    row = rows.take(slice(60, 61))
    for each in LEVELS:
        for lead in (3, 20):
            one, other = explain(turned, row, lead, each), explain(plain, row, lead, each)
            np.testing.assert_array_equal(one.contributions.values, other.contributions.values)


def test_calibration_and_bounds__are_named(rows: IssueRows, model: DayAheadModel) -> None:
    row = rows.take(slice(60, 61))
    moved = explain(model, row, 5, 0.9)
    assert CALIBRATION in moved.columns
    low = replace(
        model,
        calibration=Calibration(np.full_like(model.calibration.pooled, -50.0), {}),
        traits={name: Traits(nonnegative=True) for name in ("small", "net")},
    )
    found = explain(low, row, 5, 0.1)
    assert {CALIBRATION, BOUNDS} <= set(found.columns)
    assert found.contributions.prediction[0] == 0
    assert found.contributions.base[0] + found.contributions.values.sum() == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_explained__is_refused(rows: IssueRows, model: DayAheadModel) -> None:
    row = rows.take(slice(60, 61))
    with pytest.raises(BadInputError, match=r"no quantile 0\.3"):
        explain(model, row, 5, 0.3)

    class Other:
        def predict(self, x: object) -> object:
            return np.zeros(len(x))  # type: ignore[arg-type]

    with pytest.raises(ConflictError, match="LightGBM"):
        explain(replace(model, quantiles=(Other(),) * 3), row, 5, None)  # type: ignore[arg-type]

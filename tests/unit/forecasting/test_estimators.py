"""Estimators that other packages bring: fitted, saved, loaded, and refused where they are none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from support import city_estimators
from support.issue_rows import RECIPE, START, load, make_rows, step_values

from ai_hub.errors import BadInputError, ConflictError
from ai_hub.forecasting import backtest, estimators
from ai_hub.forecasting.backtest import Meters
from ai_hub.forecasting.day_ahead import DayAheadModel, fit
from ai_hub.forecasting.issues import WEEK, IssueRows, StepValues, baseline, level, matrix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEEKS = 16
LEADS = 26


@pytest.fixture(scope="module", autouse=True)
def _city_estimators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with city_estimators.installed(tmp_path_factory.mktemp("installed") / "site"):
        yield


@pytest.fixture(scope="module")
def values() -> StepValues:
    random = np.random.default_rng(3)
    return step_values({"a": load(random, WEEKS * 168), "b": load(random, WEEKS * 168, 70.0)})


@pytest.fixture(scope="module")
def rows(values: StepValues) -> IssueRows:
    made = make_rows(values, leads=LEADS)
    made.arrays["same_hour_7d"][5] = np.nan
    return made


def test_fit__is_what_the_estimator_says_of_the_same_input(rows: IssueRows) -> None:
    """An oracle that knows scikit-learn alone."""
    assert rows.actual is not None
    model = fit(rows, replace(RECIPE, estimator="trees"))
    levels, usual = level(rows, RECIPE.inputs), baseline(rows, RECIPE.inputs)
    every = np.tile(np.arange(LEADS), (len(rows), 1))
    x = matrix(rows, every, RECIPE.inputs, levels)
    target = ((rows.actual - usual) / levels[:, None]).reshape(-1)
    known = np.isfinite(target)
    oracle = HistGradientBoostingRegressor(loss="absolute_error", max_iter=40, random_state=1)
    oracle.fit(x[known], target[known])
    expected = usual + levels[:, None] * oracle.predict(x).reshape(rows.actual.shape)
    found = model.forecast(rows)
    np.testing.assert_allclose(found.values, np.maximum(expected, 0), rtol=1e-12)
    # nothing is known of its errors yet
    np.testing.assert_array_equal(found.quantiles, np.repeat(found.values[..., None], 3, axis=-1))


def test_fit__a_feature_without_values__is_left_out(rows: IssueRows) -> None:
    """Weather that nobody brings; scikit-learn's trees cannot bin it."""
    nothing = {"hour_of_day": np.full_like(rows.arrays["hour_of_day"], np.nan)}
    empty = replace(rows, arrays={**rows.arrays, **nothing})
    model = fit(empty, replace(RECIPE, estimator="trees"))
    # also when it has values later
    np.testing.assert_array_equal(model.forecast(rows).values, model.forecast(empty).values)


@pytest.mark.parametrize("name", ["trees", "ridge", "level"])
def test_save__and_load__give_the_same_bits(rows: IssueRows, tmp_path: Path, name: str) -> None:
    model = fit(rows, replace(RECIPE, estimator=name))
    model.save(tmp_path)
    assert not list(tmp_path.glob("*.lgb"))
    again = DayAheadModel.load(tmp_path)
    assert again.recipe == model.recipe
    np.testing.assert_array_equal(again.forecast(rows).quantiles, model.forecast(rows).quantiles)


def test_backtest__bands_hold_what_they_should(rows: IssueRows, values: StepValues) -> None:
    recipe = replace(RECIPE, estimator="trees")
    found = backtest.run(rows, Meters(values, {}, {}), recipe, start=START + (WEEKS - 6) * WEEK)
    scores = found.overall.model
    assert scores.coverage == pytest.approx(0.8, abs=0.05)
    assert found.overall.improvement > 0.05
    # an asset's band is as wide as its values are large
    small, large = found.by_asset["a"].model.width, found.by_asset["b"].model.width
    assert large / small == pytest.approx(70, rel=0.2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "There is no estimator nowhere; there are lightgbm, .*ridge"),
        ("missing", "cannot be made: city_estimators:not_there"),
        ("defective", "cannot be made: city_estimators:defective: no licence"),
        ("dictionary", "has no fit and predict: city_estimators:dictionary returns dict"),
        ("ridge_without_imputer", "cannot be fitted: Input X contains NaN"),
    ],
)
def test_fit__what_is_no_estimator__is_refused(rows: IssueRows, name: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        fit(rows, replace(RECIPE, estimator=name))


def test_load__types_of_other_packages__are_refused_unread(rows: IssueRows, tmp_path: Path) -> None:
    model = fit(rows, replace(RECIPE, estimator="trees"))
    model.save(tmp_path)
    (file,) = tmp_path.glob("*.skops")
    foreign = make_pipeline(FunctionTransformer(func=city_estimators.write))  # would be called
    estimators.save(estimators.Fitted(foreign, [0]), file)
    with pytest.raises(ConflictError, match=r"types that are not of city_estimators: support\.city"):
        DayAheadModel.load(tmp_path)


def test_load__where_its_package_is_not_installed__says_so(rows: IssueRows, tmp_path: Path) -> None:
    fit(rows, replace(RECIPE, estimator="trees")).save(tmp_path)
    text = (tmp_path / "day_ahead.json").read_text()
    (tmp_path / "day_ahead.json").write_text(text.replace('"trees"', '"trees_of_2019"'))
    with pytest.raises(BadInputError, match="There is no estimator trees_of_2019") as caught:
        DayAheadModel.load(tmp_path)
    assert "ai_hub.estimators" in (caught.value.hint or "")


def test_recipe__what_is_of_lightgbm__is_refused() -> None:
    for changes in ({"point": "mean"}, {"monotone": {"hour_of_day": 1}}):
        with pytest.raises(BadInputError, match="are of LightGBM, not of the estimator trees"):
            replace(RECIPE, estimator="trees", **changes)
    assert estimators.requirements("trees") == ["scikit-learn", "skops", "city-estimators"]

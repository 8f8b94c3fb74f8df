"""Estimators that other packages bring: fitted, saved, loaded, and refused where they are none."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sklearn.datasets
import sklearn.utils
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR
from sklearn.utils import _testing
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


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestRegressor(3),
        GradientBoostingRegressor(n_estimators=3, loss="huber"),
        HistGradientBoostingRegressor(max_iter=3, loss="quantile", quantile=0.5),
        make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=3, max_iter=3)),
        SVR(),
        make_pipeline(FunctionTransformer(np.log1p), Ridge()),
    ],
)
@pytest.mark.filterwarnings("ignore:.*iterations")
def test_load__estimators_of_scikit_learn__are_read(tmp_path: Path, estimator: Any) -> None:
    random = np.random.default_rng(1)
    x, y = random.random((200, 3)), random.random(200)
    fitted = estimators.Fitted(estimator.fit(x, y), [0, 1, 2])
    estimators.save(fitted, tmp_path / "one.skops")
    again = estimators.load("trees", tmp_path / "one.skops")
    np.testing.assert_array_equal(again.predict(x), fitted.predict(x))


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
    with pytest.raises(ConflictError, match=r"what is no class of city_estimators: support\.city"):
        DayAheadModel.load(tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        _testing.check_output,  # `subprocess.check_output`, by the name that scikit-learn's tests have for it
        sklearn.datasets.fetch_openml,
        sklearn.utils.check_array,
        _testing.TempMemmap,
        DayAheadModel,
    ],
)
def test_load__functions_and_classes_of_no_estimator__are_refused(
    rows: IssueRows, tmp_path: Path, function: Any
) -> None:
    fit(rows, replace(RECIPE, estimator="trees")).save(tmp_path)
    (file,) = tmp_path.glob("*.skops")
    made = make_pipeline(FunctionTransformer(func=function, kw_args={"args": ["true"]}))
    with pytest.MonkeyPatch.context() as patch:
        if function is _testing.check_output:
            patch.setattr(function, "__module__", "sklearn.utils._testing")
        estimators.save(estimators.Fitted(made, [0]), file)
    with pytest.raises(ConflictError, match=f"no class of city_estimators: .*{function.__name__}"):
        DayAheadModel.load(tmp_path)


def test_load__modules_of_other_packages__are_not_imported() -> None:
    assert not estimators._is_class_of("this.Zen", {"sklearn", "city_estimators"})
    assert "this" not in sys.modules
    assert estimators._is_class_of("sklearn.linear_model._ridge.Ridge", {"sklearn"})
    # known by that name in a module of scikit-learn, and defined in another package
    assert not estimators._is_class_of("sklearn.base.defaultdict", {"sklearn"})


def test_forecast__rows_with_missing_values__cost_no_other_rows(rows: IssueRows) -> None:
    """An estimator that takes no missing values, fitted where there were none."""
    complete = rows.take(np.isfinite(rows.arrays["same_hour_7d"]).all(axis=1))
    complete = complete.take(np.isfinite(complete.arrays["same_hour_1d"]).all(axis=1))
    model = fit(complete, replace(RECIPE, estimator="ridge_without_imputer"))
    expected = model.forecast(complete).values
    assert np.isfinite(expected).all()
    gap = complete.arrays["same_hour_7d"].copy()
    gap[3, 7] = np.nan
    odd = replace(complete, arrays={**complete.arrays, "same_hour_7d": gap})
    found = model.forecast(odd)
    np.testing.assert_array_equal(np.argwhere(np.isnan(found.values)), [[3, 7]])
    np.testing.assert_array_equal(np.argwhere(np.isnan(found.quantiles).any(axis=-1)), [[3, 7]])
    others = np.arange(len(complete)) != 3
    np.testing.assert_allclose(found.values[others], expected[others], rtol=1e-6)  # single precision


def test_forecast__an_estimator_that_fails_on_all__says_so() -> None:
    class Defective(Ridge):
        def predict(self, x: Any) -> Any:
            raise RuntimeError(f"out of order: {x.shape}")

    fitted = estimators.Fitted(Defective(), [0])
    for x in (np.ones((3, 1)), np.array([[1], [np.nan]])):
        with pytest.raises(BadInputError, match="cannot forecast: out of order"):
            fitted.predict(x)
    assert np.isnan(fitted.predict(np.full((2, 1), np.nan))).all()


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

"""Models of other kinds than `ai-hub train` makes, and what each is fed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import lightgbm as lgb
import mlflow.lightgbm
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from ai_hub.errors import BadInputError, ConflictError
from ai_hub.forecasting.card import MAKER, MAKER_TAG, ModelCard
from ai_hub.forecasting.models.loading import LoadedModel, load
from ai_hub.forecasting.models.registry import ProductionVersion

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ["hour_of_day", "lag_1h"]
FRAME = pd.DataFrame({"hour_of_day": np.arange(24), "lag_1h": np.arange(24) / 2.0})
CARD_IN_KW = ModelCard("forecast_basic", COLUMNS, [], "electricity", ["a"], "kW")
TARGET = 2.0 * FRAME["hour_of_day"] + FRAME["lag_1h"]


def _load(folder: Path, **tags: str) -> LoadedModel:
    return load(folder, "city-works", "demand-forecast", ProductionVersion(3, "v1.2.0", "0" * 64, tags))


def _linear(folder: Path, *, signed: bool = True) -> LoadedModel:
    model = LinearRegression().fit(FRAME, TARGET)
    signature = infer_signature(FRAME, model.predict(FRAME)) if signed else None
    mlflow.sklearn.save_model(
        model,
        str(folder),
        signature=signature,
        pip_requirements=["scikit-learn"],
        serialization_format="pickle",
    )
    return _load(folder, feature_service="forecast_basic")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_model_of_another_kind__is_fed_the_types_of_its_signature(tmp_path: Path) -> None:
    model = _linear(tmp_path / "model")
    assert (model.columns, model.feature_service) == (tuple(COLUMNS), "forecast_basic")
    # as JSON has them: whole numbers for either, in any order
    rows = [{"lag_1h": 4, "hour_of_day": 3.0, "other": 1}, {"lag_1h": 1.5, "hour_of_day": 0, "other": 1}]
    assert model.values(rows) == pytest.approx([10.0, 1.5])
    with pytest.raises(BadInputError, match="lag_1h"):
        model.predict([{"hour_of_day": 1}])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_model_without_signature__takes_what_it_is_given(tmp_path: Path) -> None:
    model = _linear(tmp_path / "model", signed=False)
    assert model.columns == ()
    assert model.predict(FRAME.head(2)) == pytest.approx([0.0, 2.5])


def test_booster_without_card__knows_its_columns_and_takes_missing_values(tmp_path: Path) -> None:
    data = lgb.Dataset(pd.concat([FRAME.astype(float)] * 10), np.full(240, 7.0))
    booster = lgb.train({"verbose": -1, "num_threads": 1}, data, 1)
    mlflow.lightgbm.save_model(booster, str(tmp_path / "model"), pip_requirements=["lightgbm"])
    model = _load(tmp_path / "model")
    assert (model.columns, model.feature_service) == (tuple(COLUMNS), None)
    assert model.values([{"hour_of_day": 1, "lag_1h": None}]) == pytest.approx([7.0])
    with pytest.raises(BadInputError, match=r"hour_of_day\.\nSee its `columns`"):
        model.predict([{"lag_1h": 1.0}])


def test_values__of_a_model_that_answers_more_than_a_number__are_refused() -> None:
    model = LoadedModel(
        "t", "m", 1, None, "", ("a",), frozenset(), None, lambda rows: np.ones((len(rows), 2))
    )
    with pytest.raises(ConflictError, match="one number a row"):
        model.values([{"a": 1}])


def _boosted(folder: Path, card: ModelCard | None, **tags: str) -> LoadedModel:
    data = lgb.Dataset(pd.concat([FRAME.astype(float)] * 10), np.full(240, 7.0))
    booster = lgb.train({"verbose": -1, "num_threads": 1}, data, 1)
    metadata = card.as_metadata() if card else {"feature_service": "forecast_basic", "features": COLUMNS}
    mlflow.lightgbm.save_model(booster, str(folder), pip_requirements=["lightgbm"], metadata=metadata)
    return _load(folder, **tags)


def test_model_of_training_before_units__is_refused(tmp_path: Path) -> None:
    tags = {MAKER_TAG: MAKER}
    with pytest.raises(
        ConflictError, match=r"demand-forecast v1.2.0 does not say the unit .*\n.*ai-hub train"
    ):
        _boosted(tmp_path / "without", None, **tags)
    with pytest.raises(ConflictError, match="averaged readings in MWh"):
        _boosted(tmp_path / "averages", replace(CARD_IN_KW, unit="MWh"), **tags)


def test_check_units__assets_in_another_unit__are_refused(tmp_path: Path) -> None:
    model = _boosted(tmp_path / "model", CARD_IN_KW, **{MAKER_TAG: MAKER})
    model.check_units({"a": "kW", "b": "kW"})
    with pytest.raises(ConflictError, match=r"trained in kW, but .* of b in m3/h, c in no known unit\."):
        model.check_units({"a": "kW", "b": "m3/h", "c": None})
    unsaid = _boosted(tmp_path / "unsaid", replace(CARD_IN_KW, unit=None), **{MAKER_TAG: MAKER})
    unsaid.check_units({"a": None})
    with pytest.raises(ConflictError, match=r"no known unit, but .* of a in kW"):
        unsaid.check_units({"a": "kW"})
    # another's model says nothing of units, so there is nothing to compare
    _boosted(tmp_path / "foreign", None).check_units({"a": "m3/h"})

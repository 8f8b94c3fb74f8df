"""Fitting LightGBM reproducibly, and its input, which training and prediction share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import pandas as pd

from ai_hub.forecasting import TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.forecasting.dataset import Split


def model_input(rows: pd.DataFrame | Sequence[Mapping[str, Any]], features: Sequence[str]) -> pd.DataFrame:
    """Matrix of `features` in their order, float64 without their last digits; a missing value is NaN.

    Raises:
        KeyError: a feature is not a column of `rows`.
    """
    frame = pd.DataFrame(rows)
    if absent := [name for name in features if name not in frame.columns]:
        raise KeyError(f"not among the columns: {', '.join(absent)}")
    return frame[list(features)].astype("float64").apply(without_last_digits).reset_index(drop=True)


def without_last_digits(values: pd.Series[float]) -> pd.Series[float]:
    """`values` rounded to 32 bits of their mantissa, more than nine digits.

    The digits after them are rounding errors, which depend on the unit and interval of a meter, and on which
    a tree must not split.
    """
    bits = values.to_numpy("float64").view("int64")
    rounded = (bits + (1 << 19)) & -(1 << 20)
    return pd.Series(rounded.view("float64"), index=values.index)


# Absolute error: meters have rare peaks many times their usual load, which squares would be fitted to.
PARAMETERS: dict[str, Any] = {
    "objective": "regression_l1",
    "metric": "l1",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 40,
    "seed": 20,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
# The model is the same with any number of threads; on fewer rows they wait for each other.
_THREADS_FROM_ROWS = 200_000
MAX_ROUNDS = 2000
PATIENCE = 50


@dataclass(frozen=True)
class Fitted:
    """A model, and after how many rounds the validation error was lowest."""

    booster: lgb.Booster
    rounds: int


def fit(split: Split, features: Sequence[str]) -> Fitted:
    """Find the number of rounds on the validation part, then fit anew on training and validation together."""
    parameters = PARAMETERS | {"num_threads": 0 if len(split.train) >= _THREADS_FROM_ROWS else 1}
    probe = lgb.train(
        parameters,
        _dataset(split.train, features),
        num_boost_round=MAX_ROUNDS,
        valid_sets=[_dataset(split.validation, features)],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    rounds = max(probe.best_iteration, 1)
    rows = pd.concat([split.train, split.validation])
    return Fitted(lgb.train(parameters, _dataset(rows, features), num_boost_round=rounds), rounds)


def _dataset(rows: pd.DataFrame, features: Sequence[str]) -> lgb.Dataset:
    label = without_last_digits(rows[TARGET]).to_numpy()
    return lgb.Dataset(model_input(rows, features), label=label, free_raw_data=True)

"""Errors on the held-out weeks, beside those of naive forecasts for the same hours."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ai_hub.forecasting import NAIVE_HOURS, TARGET
from ai_hub.forecasting.fitting import model_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightgbm as lgb
    from numpy.typing import ArrayLike

    from ai_hub.forecasting.dataset import Split


@dataclass(frozen=True)
class Errors:
    """Errors over `hours` hours.

    `mae` and `rmse` have the unit of the target; `wape` is the sum of absolute errors over the sum of
    absolute values, `mase` the MAE over that of yesterday's value in the training weeks, `bias` the mean of
    forecast minus actual. NaN: undefined.
    """

    hours: int
    mae: float
    rmse: float
    wape: float
    mase: float
    bias: float

    def as_metrics(self) -> dict[str, float]:
        """The defined ones by name."""
        return {name: value for name, value in asdict(self).items() if np.isfinite(value)}


def errors(actual: ArrayLike, forecast: ArrayLike, *, scale: float) -> Errors:
    """Errors of `forecast` against `actual`, of equal length and without NaN; `scale` is MASE's divisor."""
    actual_values, forecast_values = np.asarray(actual, float), np.asarray(forecast, float)
    if actual_values.shape != forecast_values.shape:
        raise ValueError(f"shapes differ: {actual_values.shape} and {forecast_values.shape}")
    if actual_values.size == 0:
        return Errors(0, *(float("nan"),) * 5)
    deviation = forecast_values - actual_values
    difference = np.abs(deviation)
    mae, total = float(difference.mean()), float(np.abs(actual_values).sum())
    return Errors(
        hours=actual_values.size,
        mae=mae,
        rmse=float(np.sqrt(np.square(difference).mean())),
        wape=float(difference.sum()) / total if total else float("nan"),
        mase=mae / scale if scale else float("nan"),
        bias=float(deviation.mean()),
    )


def naive_forecasts(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Naive forecasts of `rows`, one column each, NaN where the earlier hour has no reading.

    Both frames have `asset_id`, `event_timestamp` and the target; earlier hours are looked up in `history`
    by time, so a gap never shifts them.
    """
    values = history.set_index(["asset_id", "event_timestamp"])[TARGET]
    return pd.DataFrame(
        {
            name: values.reindex(
                pd.MultiIndex.from_arrays(
                    [rows["asset_id"], rows["event_timestamp"] - pd.Timedelta(hours=hours)]
                )
            ).to_numpy()
            for name, hours in NAIVE_HOURS.items()
        },
        index=rows.index,
    )


def daily_change(train: pd.DataFrame) -> float:
    """Mean absolute difference from the same hour yesterday within `train`: what MASE divides by."""
    yesterday = naive_forecasts(train, train)["same hour yesterday"]
    return float((train[TARGET] - yesterday).abs().mean())


FORECAST = "forecast"


@dataclass(frozen=True)
class Comparison:
    """Errors of the model and of each naive forecast over the same hours."""

    model: Errors
    naive: dict[str, Errors]

    @property
    def best_naive(self) -> str:
        """Name of the naive forecast with the lowest MAE."""
        return min(self.naive, key=lambda name: self.naive[name].mae)

    @property
    def improvement(self) -> float:
        """By which part the model's MAE is below the best naive forecast's; negative when above."""
        baseline = self.naive[self.best_naive].mae
        return 1 - self.model.mae / baseline if baseline else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, undefined ones left out."""
        return {
            "model": self.model.as_metrics(),
            "naive": {name: errors.as_metrics() for name, errors in self.naive.items()},
            "best_naive": self.best_naive,
            "improvement": self.improvement,
        }


@dataclass(frozen=True)
class Evaluation:
    """Held-out hours with forecasts, and their errors over all assets and for each."""

    #: `asset_id`, `event_timestamp`, target, `forecast` and one column a naive forecast
    hours: pd.DataFrame
    overall: Comparison
    by_asset: dict[str, Comparison]
    #: held-out hours not compared, because an earlier hour a naive forecast needs has no reading
    not_compared: int


def evaluate(
    booster: lgb.Booster, split: Split, features: Sequence[str], history: pd.DataFrame
) -> Evaluation:
    """Compare on every held-out hour for which all naive forecasts exist.

    `history` is where these look up earlier hours; it covers at least a week before the held-out part.
    """
    rows = split.holdout
    hours = rows[["asset_id", "event_timestamp", TARGET]].copy()
    hours[FORECAST] = booster.predict(model_input(rows, features))
    hours = hours.join(naive_forecasts(rows, history))
    compared = hours.dropna(subset=list(NAIVE_HOURS))
    return Evaluation(
        hours=hours,
        overall=_compare(compared, split.train),
        by_asset={
            str(asset): _compare(part, split.train[split.train["asset_id"] == asset])
            for asset, part in compared.groupby("asset_id", sort=True)
        },
        not_compared=len(hours) - len(compared),
    )


def _compare(hours: pd.DataFrame, train: pd.DataFrame) -> Comparison:
    scale = daily_change(train)
    actual = hours[TARGET]
    return Comparison(
        errors(actual, hours[FORECAST], scale=scale),
        {name: errors(actual, hours[name], scale=scale) for name in NAIVE_HOURS},
    )

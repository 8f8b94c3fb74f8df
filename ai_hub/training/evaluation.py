"""Errors on the held-out weeks, beside those of the naive forecasts on the same hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ai_hub.training.baselines import daily_change, naive_forecasts
from ai_hub.training.metrics import Errors, errors
from ai_hub.training.model_input import model_input
from ai_hub.training.terms import NAIVE_HOURS, TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightgbm as lgb

    from ai_hub.training.splits import Split

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

"""Error metrics of a forecast."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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

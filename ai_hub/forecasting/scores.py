"""Scores of forecasts; targets without an actual value or a forecast do not count."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.forecasting.issues import Floats


@dataclass(frozen=True)
class Scores:
    """Scores over `n` targets; NaN: undefined.

    There is no percentage error: generation and net load are zero at times, and it would be infinite.
    """

    n: int
    #: mean absolute error, in the unit of the target
    mae: float
    rmse: float
    #: mean of forecast minus actual
    bias: float
    #: MAE over the mean of the absolute actual values
    mae_over_mean: float
    #: mean of absolute errors over the capacity of their asset
    mae_over_capacity: float
    #: mean of absolute errors over the scale of their asset
    mase: float
    #: mean over all quantiles of (level - [actual < quantile]) * (actual - quantile)
    pinball: float
    #: part of the actual values from the lowest to the highest quantile, where these differ or are wrong
    coverage: float
    #: mean distance from the lowest to the highest quantile
    width: float
    #: part of the forecast peaks that were some, and of the peaks that were forecast
    peak_precision: float
    peak_recall: float

    def as_metrics(self) -> dict[str, float]:
        """The defined ones by name."""
        return {name: value for name, value in asdict(self).items() if np.isfinite(value)}


def score(
    actual: Floats,
    value: Floats,
    *,
    quantiles: Floats | None = None,
    levels: Sequence[float] = (),
    scale: Floats,
    capacity: Floats,
    peak: Floats,
) -> Scores:
    """Scores of forecasts.

    Args:
        actual: (m,).
        value: (m,), the point forecasts.
        quantiles: (m, levels); None: there are none.
        levels: of the quantiles, rising.
        scale: (m,), what MASE divides by: the MAE of a naive forecast of the target's asset.
        capacity: (m,), of the target's asset; NaN: not known.
        peak: (m,), above which a value of the target's asset is a peak.
    """
    kept = np.isfinite(actual) & np.isfinite(value)
    if quantiles is not None:
        kept &= np.isfinite(quantiles).all(axis=1)
        quantiles = quantiles[kept]
    actual, value, scale, capacity, peak = (each[kept] for each in (actual, value, scale, capacity, peak))
    deviation = value - actual
    error = np.abs(deviation)
    mae, size = _mean(error), _mean(np.abs(actual))
    with np.errstate(divide="ignore", invalid="ignore"):
        of_capacity, of_scale = error / capacity, error / scale
    is_peak, said_peak = actual > peak, value > peak
    hits = float((is_peak & said_peak).sum())
    return Scores(
        n=int(kept.sum()),
        mae=mae,
        rmse=_mean(np.square(deviation)) ** 0.5,
        bias=_mean(deviation),
        mae_over_mean=_over(mae, size),
        mae_over_capacity=_mean(of_capacity[np.isfinite(of_capacity)]),
        mase=_mean(of_scale[np.isfinite(of_scale)]),
        pinball=_mean(_pinball(actual, quantiles, levels)),
        coverage=_coverage(actual, quantiles),
        width=_mean(quantiles[:, -1] - quantiles[:, 0]) if quantiles is not None else float("nan"),
        peak_precision=_over(hits, float(said_peak.sum())),
        peak_recall=_over(hits, float(is_peak.sum())),
    )


def _coverage(actual: Floats, quantiles: Floats | None) -> float:
    """A band without a width, as of the sun at night, would be covered always."""
    if quantiles is None:
        return float("nan")
    low, high = quantiles[:, 0], quantiles[:, -1]
    covered = (low <= actual) & (actual <= high)
    return _mean(covered[(low < high) | ~covered])


def _pinball(actual: Floats, quantiles: Floats | None, levels: Sequence[float]) -> Floats:
    if quantiles is None:
        return np.empty(0)
    distance = actual[:, None] - quantiles
    return np.maximum(np.array(levels) * distance, (np.array(levels) - 1) * distance)


def _mean(values: Floats | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")

"""Anomalies of a series: how far each of its points is from what is expected, in standard deviations.

Every method compares with a reference: the training data, else the newest points of the series itself. The
points of a series that is its own reference are among what they are compared with, so that no score of n
points exceeds (n - 1) / sqrt(n) where it is a distance from their mean.

scikit-learn and statsmodels are imported when a method needs them: they take a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Floats = npt.NDArray[np.float64]

#: Where a score ends: a point that differs from a reference without any spread has it.
HIGHEST_SCORE: Final = 100.0
#: A severity is that of scores up to here; those above are critical.
SEVERITIES: Final[Mapping[str, float]] = {"low": 2.5, "medium": 3.5, "high": 4.5}
CRITICAL: Final = "critical"
DECOMPOSITION: Final = "prophet_decomposition"
FORECAST_BAND: Final = "forecast_band"
_SEED: Final = 20
_TREES: Final = 100
_NEIGHBOURS: Final = 20
#: Of a normal distribution, in standard deviations: the upper quartile, and the range between quartiles.
_QUARTILE: Final = 0.6744897501960817
_QUARTILE_RANGE: Final = 2 * _QUARTILE
#: The 90 % quantile.
_DECILE: Final = 1.2815515655446004
#: Differences that are this small beside the values are rounding errors.
_PRECISION: Final = 1e-9
_DAY: Final = np.timedelta64(1, "D")
#: Periods that a decomposition needs at least, and the share of steps that may be missing.
_PERIODS: Final = 2
_MISSING: Final = 0.2
#: Seasons over which the season is smoothed. With 7, as in statsmodels, it follows the noise, and twice as
#: many points seem odd.
_SEASONS: Final = 15


class Series(NamedTuple):
    """Points in the order of their times, which differ; both of shape (n,)."""

    #: UTC
    times: npt.NDArray[np.datetime64]
    values: Floats


@dataclass(frozen=True)
class Detection:
    """What a method finds out about each point of a series; arrays of shape (n,)."""

    #: 0 to `HIGHEST_SCORE`, in standard deviations
    scores: Floats
    #: which values are expected, and their mean and standard deviation
    minimum: Floats
    maximum: Floats
    mean: Floats
    std: Floats
    #: what a score is, with a place for it
    text: str

    def explanation(self, index: int) -> str:
        """What the score of a point means."""
        score = self.scores[index]
        return self.text.format("100 or more" if score >= HIGHEST_SCORE else f"{score:.2f}")


def detect(
    series: Series,
    training: Series | None,
    method: str,
    *,
    sensitivity: float,
    lookback: timedelta,
) -> Detection:
    """Compare each point of `series` with `training`, else with the series' own newest points.

    Args:
        series: at least two points.
        training: what is usual; at least two points.
        method: one of `METHODS`.
        sensitivity: from which score on a point is an anomaly; expected are values with a lower one.
        lookback: of the series' own points those count that are newer than this before its last one.

    Raises:
        BadInputError: the method cannot be used on these points.
    """
    if training is None:
        is_recent = series.times > series.times[-1] - np.timedelta64(lookback)
        if is_recent.sum() < 2:  # noqa: PLR2004  # a standard deviation needs two
            hours = lookback / timedelta(hours=1)
            raise BadInputError(
                f"time_series has one point in the last {hours:g} hours before its end.",
                hint="Send more points, a larger lookback_hours, or training_data.",
            )
        reference = series.values[is_recent]
    else:
        is_recent = None
        reference = training.values
    unit = _PRECISION * float(np.abs(reference).max())
    if unit == 0 or reference.max() - reference.min() <= unit:
        method = "z_score"  # the others need a spread that is no rounding error
    if method == DECOMPOSITION:
        return _decomposition(series, training, is_recent, sensitivity)
    return METHODS[method](reference, series.values, sensitivity)


def compare_with_forecasts(series: Series, bands: Floats, sensitivity: float) -> Detection:
    """Compare each point with the quantiles of its forecast, as those of a normal distribution on each side.

    Args:
        series: means over the steps of the forecasts, in their unit.
        bands: 10, 50 and 90 % quantile of each point, shape (n, 3).
        sensitivity: from which score on a point is an anomaly.
    """
    lower, median, upper = bands.T
    unit = _PRECISION * np.maximum(np.abs(bands).max(axis=1), np.abs(series.values))
    below, above = (np.maximum(side / _DECILE, unit) for side in (median - lower, upper - median))
    distances = series.values - median
    spreads = np.where(distances < 0, below, above)
    scores = np.divide(np.abs(distances), spreads, out=np.zeros_like(spreads), where=spreads > 0)
    return Detection(
        np.minimum(scores, HIGHEST_SCORE),
        median - sensitivity * below,
        median + sensitivity * above,
        median,
        (upper - lower) / (2 * _DECILE),
        "{} standard deviations from the forecast that was valid, by its quantiles.",
    )


def severity(score: float) -> str:
    """Severity of an anomaly with this score, whatever the sensitivity."""
    return next((name for name, highest in SEVERITIES.items() if score <= highest), CRITICAL)


def _z_score(reference: Floats, values: Floats, sensitivity: float) -> Detection:
    mean, std = float(reference.mean()), float(reference.std(ddof=1))
    text = f"{{}} standard deviations from the mean of {len(reference)} points."
    return _around(np.full(len(values), mean), values, (std, _resolved(std, reference)), sensitivity, text)


def _iqr(reference: Floats, values: Floats, sensitivity: float) -> Detection:
    """Tukey's fences, in standard deviations of a normal distribution with these quartiles.

    A fence of 1.5 ranges between the quartiles is a sensitivity of 2.70.
    """
    lower, upper = (float(each) for each in np.percentile(reference, [25, 75]))
    spread = _resolved(upper - lower, reference)
    beyond = np.maximum(lower - values, values - upper)
    scores = np.where(beyond > 0, _QUARTILE + _QUARTILE_RANGE * _ratio(beyond, spread), 0.0)
    fence = (sensitivity - _QUARTILE) / _QUARTILE_RANGE * spread
    return _detection(
        np.minimum(scores, HIGHEST_SCORE),
        (lower - fence, upper + fence),
        reference,
        f"{{}} standard deviations by the quartiles of {len(reference)} points.",
    )


def _isolation_forest(reference: Floats, values: Floats, sensitivity: float) -> Detection:
    from sklearn.ensemble import IsolationForest  # noqa: PLC0415  # takes a second

    forest = IsolationForest(n_estimators=_TREES, random_state=_SEED).fit(reference[:, np.newaxis])
    # of each different value once
    distinct, index = np.unique(np.concatenate([reference, values]), return_inverse=True)
    isolation = -forest.score_samples(distinct[:, np.newaxis])[index]
    return _by_measure(
        isolation,
        reference,
        sensitivity,
        f"{{}} standard deviations more isolated than {len(reference)} points on average"
        " (scikit-learn's IsolationForest, of the values).",
    )


def _local_outlier_factor(reference: Floats, values: Floats, sensitivity: float) -> Detection:
    """Local outlier factors. A value that the reference has gets the factor that it has there.

    Of equal values as many count as there are neighbours, or else all neighbours of one were its equals, at
    no distance, and its density infinite.
    """
    from sklearn.neighbors import LocalOutlierFactor  # noqa: PLC0415  # takes a second

    unit = _PRECISION * float(np.abs(reference).max())
    known, new = np.round(reference / unit) * unit, np.round(values / unit) * unit
    neighbours = min(_NEIGHBOURS, len(reference) - 1)
    kept = np.sort(known)
    # a value that stands `neighbours` places before is the same one too often
    kept = kept[np.concatenate([np.full(neighbours, True), kept[neighbours:] != kept[:-neighbours]])]
    model = LocalOutlierFactor(n_neighbors=min(neighbours, len(kept) - 1), novelty=True)
    model.fit(kept[:, np.newaxis])
    distinct, index = np.unique(np.concatenate([known, new]), return_inverse=True)
    place = np.minimum(np.searchsorted(kept, distinct), len(kept) - 1)
    factors = -np.where(
        kept[place] == distinct,
        model.negative_outlier_factor_[place],
        model.score_samples(distinct[:, np.newaxis]),
    )
    return _by_measure(
        factors[index],
        reference,
        sensitivity,
        f"A local outlier factor {{}} standard deviations above the mean of {len(reference)} points"
        " (scikit-learn's LocalOutlierFactor, of the values).",
    )


def _by_measure(measures: Floats, reference: Floats, sensitivity: float, text: str) -> Detection:
    """Scores by a measure of the reference's points, then of the others: how far it is above their mean."""
    usual, measured = measures[: len(reference)], measures[len(reference) :]
    mean = float(usual.mean())
    spread = _resolved(float(usual.std(ddof=1)), usual)
    scores = np.minimum(_ratio(np.maximum(measured - mean, 0.0), spread), HIGHEST_SCORE)
    # not empty, as some are below the mean
    expected = reference[usual <= mean + sensitivity * spread]
    return _detection(scores, (float(expected.min()), float(expected.max())), expected, text)


def _decomposition(
    series: Series, training: Series | None, is_recent: npt.NDArray[np.bool_] | None, sensitivity: float
) -> Detection:
    """Distances from trend and season, by STL in place of Prophet; gaps are bridged by straight lines.

    Raises:
        BadInputError: the times are not on regular steps, or the points are too few.
    """
    from statsmodels.tsa.seasonal import STL  # noqa: PLC0415  # takes a second

    times, values = series
    if training is not None:
        if training.times[-1] >= times[0]:
            raise BadInputError(
                f"training_data of {DECOMPOSITION} does not end before time_series begins.",
                hint="Send earlier points as training_data, or none.",
            )
        times, values = np.concatenate([training.times, times]), np.concatenate([training.values, values])
    steps, period = _steps(times)
    grid = np.arange(steps[-1] + 1)
    # LOESS at every tenth of a season, with straight lines between
    jump = max(1, period // 10)
    parts = STL(
        np.interp(grid, steps, values),
        period=period,
        seasonal=_SEASONS,
        robust=True,
        trend_jump=jump,
        low_pass_jump=jump,
    ).fit()
    expected = (np.asarray(parts.trend) + np.asarray(parts.seasonal))[steps]
    residuals = values - expected
    own = slice(len(values) - len(series.values), None)
    reference = residuals[own][is_recent] if is_recent is not None else residuals[: own.start]
    std = float(reference.std(ddof=1))
    text = (
        f"{{}} standard deviations from trend and a season of {period} steps"
        " (STL of statsmodels, in place of Prophet)."
    )
    return _around(expected[own], series.values, (std, _resolved(std, values)), sensitivity, text)


def _steps(times: npt.NDArray[np.datetime64]) -> tuple[npt.NDArray[np.int64], int]:
    """Number of each time's step since the first one, and the steps of a season.

    The season is a day, of daily points a week.

    Raises:
        BadInputError: they are on no steps, or there are too few.
    """
    differences, counts = np.unique(np.diff(times), return_counts=True)
    step = differences[counts.argmax()]
    steps, rests = np.divmod(times - times[0], step)
    if rests.astype(np.int64).any():
        raise BadInputError(
            f"Most points are {step.astype('timedelta64[s]').item()} apart, but not all are on such steps:"
            f" {DECOMPOSITION} needs regular times.",
            hint="Send the values of regular intervals, or use another method.",
        )
    is_daily = step == _DAY
    period = 7 if is_daily else int(_DAY // step)
    if not is_daily and (step * period != _DAY or period < 2):  # noqa: PLR2004  # no season of one step
        raise BadInputError(
            f"{DECOMPOSITION} needs steps that divide a day, or of a day; these are of"
            f" {step.astype('timedelta64[s]').item()}.",
            hint="Send the values of such intervals, or use another method.",
        )
    if steps[-1] + 1 < _PERIODS * period:
        raise BadInputError(
            f"{DECOMPOSITION} needs {_PERIODS * period} steps, two {'weeks' if is_daily else 'days'};"
            f" these points span {steps[-1] + 1}.",
            hint="Send more points, as training_data or in time_series, or use another method.",
        )
    if len(times) < (1 - _MISSING) * (steps[-1] + 1):
        raise BadInputError(
            f"{steps[-1] + 1 - len(times)} of {steps[-1] + 1} steps have no point; {DECOMPOSITION} bridges a"
            " fifth at most.",
            hint="Fill the gaps, or use another method.",
        )
    return steps.astype(np.int64), period


METHODS: Final[Mapping[str, Callable[[Floats, Floats, float], Detection]]] = {
    "z_score": _z_score,
    "iqr": _iqr,
    "isolation_forest": _isolation_forest,
    "local_outlier_factor": _local_outlier_factor,
}


def _around(
    mean: Floats, values: Floats, spreads: tuple[float, float], sensitivity: float, text: str
) -> Detection:
    """Distances from `mean`; `spreads` are the standard deviation and the unit of the scores."""
    std, spread = spreads
    scores = np.minimum(_ratio(np.abs(values - mean), spread), HIGHEST_SCORE)
    margin = sensitivity * spread
    return Detection(scores, mean - margin, mean + margin, mean, np.full(len(values), std), text)


def _detection(scores: Floats, limits: tuple[float, float], expected: Floats, text: str) -> Detection:
    """One expectation of all points."""
    std = float(expected.std(ddof=1)) if len(expected) > 1 else 0.0
    minimum, maximum, mean, stds = (
        np.full(len(scores), fact) for fact in (*limits, float(expected.mean()), std)
    )
    return Detection(scores, minimum, maximum, mean, stds, text)


def _resolved(spread: float, values: Floats) -> float:
    """The spread of values, or that of their rounding errors where it is less."""
    return max(spread, _PRECISION * float(np.abs(values).max()))


def _ratio(distances: Floats, spread: float) -> Floats:
    """Distances in units of `spread`; without any spread the highest score, or 0 at no distance."""
    if spread > 0:
        return distances / spread
    return np.where(distances > 0, HIGHEST_SCORE, 0.0)

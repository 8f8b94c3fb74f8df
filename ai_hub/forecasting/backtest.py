"""Backtests with rolling origins: each issue is forecast by a model that knows what was known then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ai_hub.errors import BadInputError
from ai_hub.forecasting.calibration import WINDOW, PastForecasts, bucket_names, buckets_of
from ai_hub.forecasting.day_ahead import DayAheadModel, Recipe, fit
from ai_hub.forecasting.issues import (
    DAY,
    WEEK,
    Durations,
    Flags,
    Floats,
    Forecasts,
    Instants,
    IssueRows,
    StepValues,
    durations,
    instant,
    level,
    naive,
)
from ai_hub.forecasting.scores import Scores, score

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


#: Naive forecasts, the same hour of the last day or week that is known at issue, and their seasons.
NAIVE: Final[Mapping[str, timedelta]] = {"last known day": DAY, "last known week": WEEK}
MODEL: Final = "model"
#: Part of an asset's earlier values that are no peaks.
PEAK_QUANTILE: Final = 0.95


@dataclass(frozen=True)
class Meters:
    """What a backtest knows of the meters beside the features of issues."""

    #: of all steps, also those that lie before the first issue
    values: StepValues
    #: by asset: how long after its end the value of a step becomes known; default: at once
    delay: Mapping[str, timedelta]
    #: by asset, in the unit of the values, where it is known
    capacity: Mapping[str, float]
    #: hours from the end of each step until its value was known, of assets whose readings say it, else NaN;
    #: of the assets and steps of `values`. None: no readings say it
    arrived: StepValues | None = None

    def known_at(self, rows: IssueRows) -> Instants | None:
        """(n, leads): when the values of the targets were known; None: as `delays` says."""
        if self.arrived is None:
            return None
        hours = self.arrived.at(rows.assets, rows.starts)
        by_rule = rows.ends + self.delays(rows)[:, None]
        return np.where(np.isnan(hours), by_rule, rows.ends + durations(hours))

    def delays(self, rows: IssueRows) -> Durations:
        """(n,): of each row."""
        names, index = np.unique(rows.assets, return_inverse=True)
        found = [np.timedelta64(self.delay.get(str(name), timedelta(0)), "us") for name in names]
        return np.array(found, "timedelta64[us]")[index]

    def capacities(self, rows: IssueRows) -> Floats:
        """(n,): of each row; NaN where it is not known."""
        names, index = np.unique(rows.assets, return_inverse=True)
        return np.array([self.capacity.get(str(name), np.nan) for name in names], np.float64)[index]


@dataclass(frozen=True)
class Comparison:
    """Scores over the same targets, by the name of the forecast; the model's is `MODEL`."""

    scores: Mapping[str, Scores]

    @property
    def model(self) -> Scores:
        """The model's."""
        return self.scores[MODEL]

    @property
    def best_naive(self) -> str:
        """The naive forecast with the lowest MAE."""
        return min(NAIVE, key=lambda name: self.scores[name].mae)

    @property
    def improvement(self) -> float:
        """By which part the model's MAE is below the best naive forecast's; negative when above."""
        usual = self.scores[self.best_naive].mae
        return 1 - self.model.mae / usual if usual else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, undefined ones left out."""
        found: dict[str, Any] = {name: each.as_metrics() for name, each in self.scores.items()}
        if np.isfinite(self.improvement):
            found["improvement"] = self.improvement
        return found


@dataclass(frozen=True)
class Backtest:
    """Forecasts of all issues from `start` on, and their scores."""

    rows: IssueRows
    forecasts: Forecasts
    #: by the name of a naive forecast, (n, leads)
    naive: Mapping[str, Floats]
    #: (n, leads): targets that count
    scored: Flags
    overall: Comparison
    by_lead: Mapping[str, Comparison]
    by_asset: Mapping[str, Comparison]
    #: targets without an actual value, a forecast or one of the naive forecasts
    not_compared: int
    #: uncalibrated forecasts of all issues that no model was fitted to, for the calibration of later ones
    past: PastForecasts

    def as_dict(self) -> dict[str, Any]:
        """Plain values, undefined ones left out."""
        return {
            "first_issue": f"{self.rows.issued_at.min()}Z",
            "last_issue": f"{self.rows.issued_at.max()}Z",
            "issues": len(self.rows),
            "not_compared": self.not_compared,
            "overall": self.overall.as_dict(),
            "by_lead": {name: each.as_dict() for name, each in self.by_lead.items()},
            "by_asset": {name: each.as_dict() for name, each in self.by_asset.items()},
        }


def run(
    rows: IssueRows,
    meters: Meters,
    recipe: Recipe,
    *,
    start: datetime,
    refit: timedelta | None = None,
    delivered: Flags | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Backtest:
    """Forecast every issue from `start` on, by a model fitted to what was known before.

    The model is fitted anew every `refit`, each time to what was known at the first issue that it forecasts.
    Issues of the four weeks before `start` are forecast, too: the first calibration is made of them. As in
    production, a model keeps the calibration of its fit, the first one that of `start`.

    Args:
        rows: issues with actual values, earlier ones among them.
        meters: the assets.
        recipe: what is fitted.
        start: of the issues that count, in UTC.
        refit: time between two fits; None: the model is fitted once.
        delivered: (n, leads), which targets count; None: all.
        on_step: told what is being done.

    Raises:
        BadInputError: there are no issues to forecast, or none before them.
    """
    if rows.actual is None:
        raise ValueError("there are no actual values")
    first = instant(start)
    if not (rows.issued_at >= first).any():
        raise BadInputError(
            f"There are no issues from {start:%Y-%m-%d %H:%M} UTC on.",
            hint="Ingest newer readings, or test fewer weeks.",
        )
    delay = meters.delays(rows)
    issues = np.unique(rows.issued_at[rows.issued_at >= _warm_up(rows, recipe, first, delay)])
    origins = [issues[0], *_refits(first, issues[-1], refit)]
    values = np.full((len(rows), rows.leads), np.nan)
    quantiles = np.full((*values.shape, len(recipe.levels)), np.nan)
    models: list[tuple[np.datetime64, Flags, DayAheadModel]] = []
    actual, row_levels = rows.actual.copy(), np.full(len(rows), np.nan)
    by_wind = np.zeros(len(rows), bool)
    for number, origin in enumerate(origins):
        on_step(f"fitting {number + 1} of {len(origins)}")
        chosen = rows.issued_at >= origin
        if number + 1 < len(origins):
            chosen &= rows.issued_at < origins[number + 1]
        if not chosen.any():
            continue
        model = fit(rows.known_by(origin, delay), recipe)
        part = rows.take(chosen)
        raw = model.uncalibrated(part)
        values[chosen], quantiles[chosen] = raw.values, raw.quantiles
        row_levels[chosen], by_wind[chosen] = model.levels(part), model.is_turbine(part)
        # what is certain says nothing of the width of bands
        actual[chosen] = np.where(model.night(part), np.nan, actual[chosen])
        models.append((origin, chosen & (rows.issued_at >= first), model))
    on_step("calibrating")
    forecast = rows.issued_at >= issues[0]
    past = PastForecasts(
        replace(rows, actual=actual).take(forecast),
        quantiles[forecast],
        recipe.levels,
        row_levels[forecast],
        by_wind[forecast],
        delay[forecast],
    )
    for origin, chosen, model in models:
        if not chosen.any():
            continue
        part = rows.take(chosen)
        raw = _forecasts(part, values[chosen], quantiles[chosen], recipe)
        calibration = past.calibration(max(origin, first), model.is_turbine(past.rows))
        final = model.calibrated(part, raw, calibration)
        values[chosen], quantiles[chosen] = final.values, final.quantiles
    counted = rows.issued_at >= first
    rows = rows.take(counted)
    forecasts = _forecasts(rows, values[counted], quantiles[counted], recipe)
    asked = np.ones(forecasts.values.shape, bool) if delivered is None else delivered[counted]
    return _scored(past, rows, forecasts, meters, _of_assets(meters, rows, first), asked=asked)


def _warm_up(rows: IssueRows, recipe: Recipe, first: np.datetime64, delay: Durations) -> np.datetime64:
    """Begin of the forecasts that the first calibration is made of; half of the history is left to fit to."""
    reach = np.timedelta64(WINDOW + rows.step * rows.leads, "us") + rows.usual_lateness(delay)
    # there may be issues before the first reading
    known = rows.issued_at[np.isfinite(level(rows, recipe.inputs))]
    earliest = min(known.min(), first) if known.size else first
    return max(first - reach, earliest + (first - earliest) / 2)


def _refits(first: np.datetime64, last: np.datetime64, refit: timedelta | None) -> list[np.datetime64]:
    if refit is None:
        return []
    return list(np.arange(first, last + np.timedelta64(1, "us"), np.timedelta64(refit, "us")))


def _forecasts(rows: IssueRows, values: Floats, quantiles: Floats, recipe: Recipe) -> Forecasts:
    return Forecasts(rows.assets, rows.issued_at, rows.step, values, quantiles, recipe.levels)


def _scored(
    past: PastForecasts,
    rows: IssueRows,
    forecasts: Forecasts,
    meters: Meters,
    of_asset: tuple[Floats, Floats, Floats],
    *,
    asked: Flags,
) -> Backtest:
    assert rows.actual is not None  # noqa: S101  # of `run`
    delay = meters.delays(rows)
    usual = {
        name: naive(meters.values, rows, season, delay, meters.arrived) for name, season in NAIVE.items()
    }
    asked = asked & np.isfinite(rows.actual)
    scored = asked & np.isfinite(forecasts.values)
    for each in usual.values():
        scored &= np.isfinite(each)
    if not scored.any():
        raise BadInputError(
            "No target has an actual value, a forecast and the naive forecasts to compare it with.",
            hint="Ingest more history, or take more weeks.",
        )

    def compare(chosen: Flags) -> Comparison:
        row, lead = np.nonzero(chosen & scored)
        scale, capacity, peak = (each[row] for each in of_asset)
        actual = rows.actual[row, lead]  # type: ignore[index]  # checked above
        found = {
            MODEL: score(
                actual,
                forecasts.values[row, lead],
                quantiles=forecasts.quantiles[row, lead],
                levels=forecasts.levels,
                scale=scale,
                capacity=capacity,
                peak=peak,
            )
        }
        for name, each in usual.items():
            found[name] = score(actual, each[row, lead], scale=scale, capacity=capacity, peak=peak)
        return Comparison(found)

    bucket = buckets_of(rows.leads, rows.step)
    by_lead = {
        name: compare(np.broadcast_to(bucket == number, scored.shape))
        for number, name in enumerate(bucket_names(rows.leads, rows.step))
    }
    return Backtest(
        rows=rows,
        forecasts=forecasts,
        naive=usual,
        scored=scored,
        overall=compare(np.ones_like(scored)),
        by_lead={name: each for name, each in by_lead.items() if each.model.n},
        by_asset={
            str(name): compare(np.broadcast_to((rows.assets == name)[:, None], scored.shape))
            for name in np.unique(rows.assets)
        },
        not_compared=int(asked.sum() - scored.sum()),
        past=past,
    )


def _of_assets(meters: Meters, rows: IssueRows, first: np.datetime64) -> tuple[Floats, Floats, Floats]:
    """(n,) each: scale, capacity and peak of a row's asset, by values before the first issue that counts."""
    before = meters.values.before(first)
    day = DAY // before.step
    names, index = np.unique(rows.assets, return_inverse=True)
    scale, peak = np.full(len(names), np.nan), np.full(len(names), np.nan)
    for position, name in enumerate(names):
        values = before.values[before.assets == name].reshape(-1)
        change = np.abs(values[day:] - values[:-day])
        if np.isfinite(change).any():
            scale[position] = np.nanmean(change)
            peak[position] = np.nanquantile(values, PEAK_QUANTILE)
    return scale[index], meters.capacities(rows), peak[index]

"""Forecasts of all leads of an issue: one model over issues and leads, a point forecast and quantiles.

docs/forecasts.md has the backtests by which target, objectives and rounds were chosen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import lightgbm as lgb
import numpy as np
import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.forecasting import estimators
from ai_hub.forecasting.calibration import MEDIAN, Calibration
from ai_hub.forecasting.issues import (
    HOUR,
    Flags,
    Floats,
    Forecasts,
    Inputs,
    Instants,
    Ints,
    IssueRows,
    baseline,
    level,
    matrix,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

#: Of each tree. The model is the same with any number of threads.
_PARAMETERS: Final[Mapping[str, Any]] = {
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "max_bin": 127,
    "seed": 20,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
#: Of each booster; with a relative target more of them make no forecast better.
ROUNDS: Final = 80
#: Issues and leads that a booster is fitted to; of more, a row takes every second lead, or every third, …
MOST_ROWS: Final = 600_000
#: On fewer rows threads wait for each other.
_THREADS_FROM_ROWS: Final = 100_000
#: Errors beyond so many levels count as that many: a meter that was off knows no level.
_CLIP: Final = 10.0
#: Rows of the trees' input that are made at once.
_BLOCK: Final = 400_000
#: An asset whose values are below zero at most that often has no forecasts below zero.
_RARELY: Final = 0.001
#: Degrees below the horizon at which it is dark.
_DARK: Final = -1.0
#: Degrees that the sun rises in an hour at most.
_RISES: Final = 15.0
#: What is generated at night, as a part of the high value; what a shop takes then is more.
_NIGHT_SHARE: Final = 0.001
#: The quantile of all values that is the high value: a few faults must not be it.
_HIGH: Final = 0.99
_NIGHT_STEPS: Final = 48
#: Part of the variance of a wind turbine's power that the speed of the wind explains at least.
_WIND_SHARE: Final = 0.5
#: How long the wind blew at least, of what is taken for a wind turbine: of few values it explains any.
_WIND_KNOWN: Final = timedelta(days=14)
#: Errors nearer are squared, others absolute: LightGBM has no monotone constraints with absolute errors.
_NEAR: Final = 0.1

MODEL_FILE: Final = "day_ahead.json"
_POINT_FILE: Final = "point.lgb"
#: The middle of bands whose width is that of the errors: a booster, or another estimator.
_MIDDLE_FILE: Final = "middle.lgb"
_ESTIMATOR_FILE: Final = "middle.skops"


_Predictor: TypeAlias = lgb.Booster | estimators.Fitted


@dataclass(frozen=True)
class Traits:
    """What holds of all values of an asset."""

    #: it has no values below zero
    nonnegative: bool = False
    #: it generates nothing while the sun is down
    dark_at_night: bool = False
    #: of wind turbines: power in strong wind, in the unit of the values; None: it is none
    rated: float | None = None


@dataclass(frozen=True)
class Recipe:
    """What is fitted."""

    inputs: Inputs
    #: rising
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    #: array feature with the sun's elevation at the start of each target, in degrees
    elevation: str | None = None
    #: point forecast: `median`, the 50 % quantile, errs least; `mean` has no bias in sums
    point: str = "median"
    #: array feature with the part of their rated power that wind turbines give at each target
    wind: str | None = None
    #: by feature: 1 where forecasts do not fall as it rises, -1 where they do not rise
    monotone: Mapping[str, int] = field(default_factory=dict)
    #: entry point of an estimator; None: LightGBM
    estimator: str | None = None

    def __post_init__(self) -> None:
        """Refuse constraints that would not hold.

        Raises:
            BadInputError: a feature is not there, or in the unit of the forecasts, or has an effect beside
                the trees; or an estimator fits.
        """
        inputs = self.inputs
        if unknown := sorted(set(self.monotone) - {*inputs.scalars, *inputs.arrays}):
            raise BadInputError(
                f"--monotone names {', '.join(unknown)}, and the feature service has no such feature.",
                hint=f"It has {', '.join([*inputs.scalars, *inputs.arrays])}.",
            )
        if in_unit := sorted(set(self.monotone) & inputs.in_unit):
            raise BadInputError(
                f"--monotone names {', '.join(in_unit)}, by which forecasts are scaled: it would not hold.",
                hint="Give features of the weather, of other series or of the calendar.",
            )
        falling = {name for name, sign in self.monotone.items() if sign < 0}
        if self.wind in falling:
            raise BadInputError(
                f"--monotone {self.wind}:- would not hold: what wind turbines generate is forecast from it.",
                hint=f"Leave it out, or take {self.wind}:+.",
            )
        if self.elevation in falling:
            raise BadInputError(
                f"--monotone {self.elevation}:- would not hold: what generates by the sun is zero at night.",
                hint=f"Leave it out, or take {self.elevation}:+.",
            )
        if self.estimator and (self.monotone or self.point == "mean"):
            raise BadInputError(
                f"--monotone and --point mean are of LightGBM, not of the estimator {self.estimator}.",
                hint="Let the estimator's own options say it, where it is made.",
            )

    @property
    def has_middle(self) -> bool:
        """Whether one model gives the middle of bands, whose widths are those of past errors."""
        return self.estimator is not None or bool(self.monotone)


@dataclass(frozen=True)
class DayAheadModel:
    """A fitted model of one kind of meters."""

    recipe: Recipe
    step: timedelta
    leads: int
    #: None: the point forecast is the median
    point: lgb.Booster | None
    #: one a level; or one alone, the middle, see `Recipe.has_middle`
    quantiles: tuple[_Predictor, ...]
    calibration: Calibration
    #: by asset that it was fitted to
    traits: Mapping[str, Traits]

    def forecast(self, rows: IssueRows) -> Forecasts:
        """Forecast all leads of `rows`; NaN for rows that know nothing of their asset's values.

        Raises:
            ValueError: step or leads are not those of the model.
        """
        return self.calibrated(rows, self.uncalibrated(rows), self.calibration)

    def calibrated(self, rows: IssueRows, raw: Forecasts, calibration: Calibration) -> Forecasts:
        """What `uncalibrated` says of the rows, moved and within bounds."""
        quantiles = calibration.apply(rows.assets, raw.quantiles, self.levels(rows), rows.step)
        # so that it is within the band
        values = self._median(quantiles) if self.point is None else raw.values  # noqa: PD011  # no pandas
        return self._bounded(rows, replace(raw, values=values, quantiles=quantiles))

    def uncalibrated(self, rows: IssueRows) -> Forecasts:
        """As the trees say it, in order."""
        if rows.step != self.step or rows.leads != self.leads:
            raise ValueError(
                f"rows of {rows.leads} steps of {rows.step}, a model of {self.leads} of {self.step}"
            )
        inputs = self.recipe.inputs
        boosters = self.quantiles if self.point is None else (*self.quantiles, self.point)
        levels, usual = self.levels(rows), _usual(rows, self.recipe, self.traits)
        found = np.empty((len(rows), rows.leads, len(boosters)))
        block = max(_BLOCK // rows.leads, 1)
        for first in range(0, len(rows), block):
            part = slice(first, first + block)
            taken = rows.take(part)
            leads = np.broadcast_to(np.arange(rows.leads), (len(taken), rows.leads))
            x = matrix(taken, leads, inputs, levels[part])
            for position, booster in enumerate(boosters):
                found[part, :, position] = np.reshape(booster.predict(x), leads.shape)
        found = usual[..., None] + levels[:, None, None] * found
        quantiles = np.sort(found[..., : len(self.quantiles)], axis=-1)
        if self.recipe.has_middle:
            quantiles = np.repeat(quantiles, len(self.recipe.levels), axis=-1)
        values = self._median(quantiles) if self.point is None else found[..., -1]
        return Forecasts(rows.assets, rows.issued_at, rows.step, values, quantiles, self.recipe.levels)

    def levels(self, rows: IssueRows) -> Floats:
        """(n,): in what forecasts are fitted, and errors beside the width of bands are measured."""
        return _levels(rows, self.recipe, self.traits)

    def _median(self, quantiles: Floats) -> Floats:
        return quantiles[..., self.recipe.levels.index(MEDIAN)]

    def _bounded(self, rows: IssueRows, forecasts: Forecasts) -> Forecasts:
        """Zero at night for what generates by the sun, and never below zero for what never is."""
        nonnegative, night = self._has(rows, "nonnegative"), self.night(rows)

        def bounded(values: Floats, night: Flags, nonnegative: Flags) -> Floats:
            values = np.where(nonnegative, np.maximum(values, 0), values)
            return np.where(night & ~np.isnan(values), 0.0, values)

        return replace(
            forecasts,
            values=bounded(forecasts.values, night, nonnegative[:, None]),
            quantiles=bounded(forecasts.quantiles, night[..., None], nonnegative[:, None, None]),
        )

    def night(self, rows: IssueRows) -> Flags:
        """(n, leads): targets at which an asset that generates by the sun surely generates nothing."""
        return is_night(rows, self.recipe) & self._has(rows, "dark_at_night")[:, None]

    def is_turbine(self, rows: IssueRows) -> Flags:
        """(n,): whether a row's asset is forecast from the wind."""
        return _rated_of(rows, self.traits) > 0  # not NaN

    def lacks_wind(self, rows: IssueRows, leads: int | None = None) -> Flags:
        """(n,): wind turbines whose wind speed is not known for some of the first `leads` (None: of all).

        Other features say little of them. Where a model knows wind turbines, assets that it was not fitted to
        may be some, whose size it does not know.
        """
        wind = self.recipe.wind
        if wind is None or all(each.rated is None for each in self.traits.values()):
            return np.zeros(len(rows), bool)
        unknown = ~np.isin(rows.assets, list(self.traits))
        return unknown | (self.is_turbine(rows) & np.isnan(rows.arrays[wind][:, :leads]).any(axis=1))

    def _has(self, rows: IssueRows, trait: str) -> Flags:
        return np.asarray(_trait(rows, self.traits, trait), dtype=bool)

    def save(self, folder: Path) -> None:
        """Write it into a folder, as text alone; but estimators, see `estimators.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.point is not None:
            self.point.save_model(str(folder / _POINT_FILE))
        recipe = self.recipe
        for file, predictor in zip(_files(recipe), self.quantiles, strict=True):
            if isinstance(predictor, lgb.Booster):
                predictor.save_model(str(folder / file))
            else:
                estimators.save(predictor, folder / file)
        content = {
            "step_minutes": self.step / timedelta(minutes=1),
            "leads": self.leads,
            "scalars": recipe.inputs.scalars,
            "arrays": recipe.inputs.arrays,
            "in_unit": sorted(recipe.inputs.in_unit),
            "usual": sorted(recipe.inputs.usual),
            "levels": recipe.levels,
            "elevation": recipe.elevation,
            "point": recipe.point,
            "wind": recipe.wind,
            "monotone": dict(recipe.monotone),
            "estimator": recipe.estimator,
            "assets": sorted(self.traits),
            "nonnegative": sorted(name for name, each in self.traits.items() if each.nonnegative),
            "dark_at_night": sorted(name for name, each in self.traits.items() if each.dark_at_night),
            "rated": {name: each.rated for name, each in self.traits.items() if each.rated is not None},
            "calibration": self.calibration.as_json(),
        }
        (folder / MODEL_FILE).write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, folder: Path) -> DayAheadModel:
        """What `save` wrote; forecasts are the same to the bit."""
        content = json.loads((folder / MODEL_FILE).read_text())
        levels = tuple(content["levels"])
        inputs = Inputs(
            tuple(content["scalars"]),
            tuple(content["arrays"]),
            frozenset(content["in_unit"]),
            frozenset(content["usual"]),
        )
        nonnegative, dark, rated = (
            set(content["nonnegative"]),
            set(content["dark_at_night"]),
            content.get("rated", {}),
        )
        recipe = Recipe(
            inputs,
            levels,
            content["elevation"],
            content["point"],
            # models of before have none
            content.get("wind"),
            content.get("monotone", {}),
            content.get("estimator"),
        )
        has_point = recipe.point == "mean" and not recipe.has_middle
        return cls(
            recipe=recipe,
            step=timedelta(minutes=content["step_minutes"]),
            leads=content["leads"],
            point=lgb.Booster(model_file=str(folder / _POINT_FILE)) if has_point else None,
            quantiles=tuple(
                lgb.Booster(model_file=str(folder / file))
                if recipe.estimator is None
                else estimators.load(recipe.estimator, folder / file)
                for file in _files(recipe)
            ),
            calibration=Calibration.of_json(content["calibration"]),
            traits={
                name: Traits(name in nonnegative, name in dark, rated.get(name))
                for name in content.get("assets", nonnegative | dark | rated.keys())
            },
        )


def _files(recipe: Recipe) -> list[str]:
    """One a model, but for that of the mean."""
    if recipe.estimator is not None:
        return [_ESTIMATOR_FILE]
    return [_MIDDLE_FILE] if recipe.monotone else [f"quantile_{each:g}.lgb" for each in recipe.levels]


def _trait(rows: IssueRows, traits: Mapping[str, Traits], name: str) -> npt.NDArray[Any]:
    """(n,): of each row's asset."""
    names, index = np.unique(rows.assets, return_inverse=True)
    return np.array([getattr(traits.get(str(each), Traits()), name) for each in names])[index]


def _levels(rows: IssueRows, recipe: Recipe, traits: Mapping[str, Traits]) -> Floats:
    """(n,): what is usual for a row's asset; of wind turbines the power in strong wind."""
    rated = _rated_of(rows, traits)
    return np.where(np.isnan(rated), level(rows, recipe.inputs), rated)


def _rated_of(rows: IssueRows, traits: Mapping[str, Traits]) -> Floats:
    """(n,): of wind turbines the power in strong wind; NaN of others."""
    return np.asarray(_trait(rows, traits, "rated"), dtype=np.float64)


def _usual(rows: IssueRows, recipe: Recipe, traits: Mapping[str, Traits]) -> Floats:
    """(n, leads): what is usual at each target; of wind turbines by the wind, where its speed is known."""
    usual = baseline(rows, recipe.inputs)
    if recipe.wind is None:
        return usual
    by_wind = _rated_of(rows, traits)[:, None] * rows.arrays[recipe.wind]
    return np.where(np.isnan(by_wind), usual, by_wind)


def is_night(rows: IssueRows, recipe: Recipe) -> Flags:
    """(n, leads): whether the sun is down in all of a target; false where nothing is known of it."""
    if recipe.elevation is None:
        return np.zeros((len(rows), rows.leads), bool)
    elevation = rows.arrays[recipe.elevation]
    dark = elevation < _DARK
    at_end = np.empty_like(dark)
    at_end[:, :-1] = dark[:, 1:]
    at_end[:, -1] = elevation[:, -1] < _DARK - _RISES * (rows.step / HOUR)
    return dark & at_end


def fit(rows: IssueRows, recipe: Recipe) -> DayAheadModel:
    """Fit all boosters to the known actual values of `rows`; nothing is calibrated.

    Raises:
        BadInputError: no value is known, or all are zero.
    """
    if rows.actual is None:
        raise ValueError("there are no actual values")
    leads, traits = _sampled_leads(rows), _traits(rows, recipe)
    levels = _levels(rows, recipe, traits)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = (rows.actual - _usual(rows, recipe, traits)) / levels[:, None]
    target = np.take_along_axis(relative, leads, axis=1).reshape(-1)
    usable = np.isfinite(target)
    if not usable.any():
        if np.nanmax(np.abs(rows.actual), initial=-1) == 0:
            raise BadInputError(
                "All values of the meters are zero.", hint="Choose others with --asset, or more --weeks."
            )
        raise BadInputError(
            "There are no issues whose targets are known, and whose features say anything of the meters.",
            hint="Ingest more history, or take more --weeks.",
        )
    x = matrix(rows, leads, recipe.inputs, levels)[usable]
    target = np.clip(target[usable], -_CLIP, _CLIP)
    predictors: list[_Predictor]
    if recipe.estimator is not None:
        predictors = [estimators.fit(recipe.estimator, x, target)]
    else:
        predictors = [*_boosters(x, target, recipe)]
    count = 1 if recipe.has_middle else len(recipe.levels)
    return DayAheadModel(
        recipe=recipe,
        step=rows.step,
        leads=rows.leads,
        point=predictors[count] if len(predictors) > count else None,  # type: ignore[arg-type]  # a booster
        quantiles=tuple(predictors[:count]),
        calibration=Calibration.none(rows.leads, rows.step, len(recipe.levels)),
        traits=traits,
    )


def _boosters(x: npt.NDArray[np.float32], target: Floats, recipe: Recipe) -> list[lgb.Booster]:
    """One a quantile, and that of the mean if there is one; or that of the middle alone."""
    data = lgb.Dataset(
        x,
        label=target,
        feature_name=recipe.inputs.columns,
        params={**_PARAMETERS},  # the seed is that of the rows by which values are put into bins
        free_raw_data=True,
    )
    objectives: list[dict[str, Any]] = [{"objective": "quantile", "alpha": each} for each in recipe.levels]
    if recipe.point == "mean":
        objectives.append({"objective": "regression"})
    if recipe.monotone:
        middle = (
            {"objective": "regression"} if recipe.point == "mean" else {"objective": "fair", "fair_c": _NEAR}
        )
        constraints = [recipe.monotone.get(column, 0) for column in recipe.inputs.columns]
        objectives = [{**middle, "monotone_constraints": constraints}]
    # side by side they do not wait for each other at each split, as threads of one booster do
    cores = (os.cpu_count() or 1) if len(x) >= _THREADS_FROM_ROWS else 1
    threads = {"num_threads": max(cores // len(objectives), 1)}
    data.construct()
    with ThreadPoolExecutor(min(cores, len(objectives))) as pool:
        return list(
            pool.map(
                lambda objective: lgb.train(
                    {**_PARAMETERS, **threads, **objective}, data, num_boost_round=ROUNDS
                ),
                objectives,
            )
        )


def _sampled_leads(rows: IssueRows) -> Ints:
    """(n, k): leads of each row that take part, drawn, so that each lead and each hour of the day occurs."""
    every = max(-(-len(rows) * rows.leads // MOST_ROWS), 1)
    every = min(every, rows.leads)
    k = rows.leads // every
    first = np.random.default_rng(_PARAMETERS["seed"]).integers(rows.leads, size=len(rows))
    found = (first[:, None] + every * np.arange(k)) % rows.leads
    return np.asarray(np.sort(found, axis=1), dtype=np.int64)


def _traits(rows: IssueRows, recipe: Recipe) -> dict[str, Traits]:
    actual = rows.actual
    assert actual is not None  # noqa: S101  # of `fit`
    night = is_night(rows, recipe)
    wind = None if recipe.wind is None else rows.arrays[recipe.wind]
    starts = rows.starts
    found = {}
    for name in np.unique(rows.assets):
        of_asset = rows.assets == name
        values, dark = actual[of_asset], night[of_asset]
        known = values[~np.isnan(values)]
        if not known.size:
            continue
        at_night = np.abs(values[dark & ~np.isnan(values)])
        high = np.quantile(np.abs(known), _HIGH)
        found[str(name)] = Traits(
            nonnegative=bool((known < 0).mean() <= _RARELY),
            dark_at_night=bool(
                at_night.size >= _NIGHT_STEPS
                and high > 0
                and (at_night > _NIGHT_SHARE * high).mean() <= _RARELY
            ),
            rated=None if wind is None else _rated(values, wind[of_asset], starts[of_asset], rows.step),
        )
    return found


def _rated(values: Floats, wind: Floats, starts: Instants, step: timedelta) -> float | None:
    """What of the values is at full wind, by least squares; None where wind says little of them."""
    known = ~np.isnan(values) & ~np.isnan(wind)
    values, wind, starts = values[known], wind[known], starts[known]
    # issues of two days have most steps in common
    if len(np.unique(starts[wind > 0])) * step < _WIND_KNOWN:
        return None
    rated = float(values @ wind / (wind @ wind))
    left = np.mean((values - rated * wind) ** 2)
    return rated if rated > 0 and left < (1 - _WIND_SHARE) * np.var(values) else None


def as_levels(texts: Sequence[str] | str) -> tuple[float, ...]:
    """Quantiles such as `0.1,0.5,0.9`, rising.

    Raises:
        BadInputError: some are none, or there twice in six digits.
    """
    parts = texts.split(",") if isinstance(texts, str) else texts
    try:
        levels = tuple(sorted(float(each) for each in parts))
    except ValueError:
        levels = ()
    # they are named so in files and columns
    names = {f"{each:g}" for each in levels}
    if not levels or not all(0 < each < 1 for each in levels) or len(names) < len(levels):
        raise BadInputError(
            f"--quantiles {texts!r} are no quantiles.",
            hint="Give numbers between 0 and 1, such as 0.1,0.5,0.9.",
        )
    return levels


def as_monotone(texts: Sequence[str]) -> dict[str, int]:
    """By feature 1 or -1, from texts such as `temperature:+`.

    Raises:
        BadInputError: a text says none, or one feature is said twice.
    """
    found = {}
    for text in texts:
        name, _, sign = text.rpartition(":")
        if not name or sign not in {"+", "-"} or name in found:
            raise BadInputError(
                f"--monotone {text!r} is no feature with a sign, or names one again.",
                hint="Say it as temperature:+ (never falls as it rises) or temperature:- (never rises).",
            )
        found[name] = 1 if sign == "+" else -1
    return found


class _Pyfunc:
    """The model as MLflow calls it, see `day_ahead_tracking.signature`."""

    def __init__(self, model: DayAheadModel) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Lists of forecasts of each row, one element a lead."""
        del params
        model, n = self.model, len(frame)
        inputs = model.recipe.inputs

        def wide(name: str) -> Floats:
            found = np.full((n, model.leads), np.nan)
            for row, each in zip(found, frame[name] if name in frame else [None] * n, strict=True):
                values = np.asarray(each, float)
                if not values.ndim or not len(values):
                    continue  # a null
                if len(values) < model.leads:
                    raise BadInputError(
                        f"{name} has {len(values)} elements, the model looks {model.leads} steps ahead.",
                        hint="Give lists with an element for each step.",
                    )
                # features may look further ahead than the model
                row[:] = values[: model.leads]
            return found

        rows = IssueRows(
            tenant_id="",
            assets=frame["asset_id"].to_numpy(str),
            issued_at=pd.to_datetime(frame["event_timestamp"], utc=True)
            .dt.tz_localize(None)
            .to_numpy("datetime64[us]"),
            step=model.step,
            scalars={
                name: frame[name].to_numpy(float) if name in frame else np.full(n, np.nan)
                for name in inputs.scalars
            },
            arrays={name: wide(name) for name in inputs.arrays},
        )
        found = model.forecast(rows)
        columns = {"forecast": list(found.values)}
        for position, each in enumerate(found.levels):
            columns[f"q{each:g}"] = list(found.quantiles[..., position])
        return pd.DataFrame(columns, index=frame.index)


def _load_pyfunc(path: str) -> _Pyfunc:
    """What MLflow loads the model by."""
    return _Pyfunc(DayAheadModel.load(Path(path)))

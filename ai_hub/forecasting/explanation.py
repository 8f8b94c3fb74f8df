"""What makes a step of a logged forecast: LightGBM's own SHAP contributions, in the unit of the forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import lightgbm as lgb
import numpy as np
import psycopg
from adbc_driver_manager import dbapi

from ai_hub.errors import BadInputError, ConflictError, ServiceDownError
from ai_hub.forecasting.calibration import MEDIAN
from ai_hub.forecasting.issues import HOUR, matrix
from ai_hub.forecasting.models.loading import Contributions, not_explained
from ai_hub.forecasting.production import issue, load
from ai_hub.forecasting.replay import differing, features_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ai_hub.forecasting.day_ahead import DayAheadModel
    from ai_hub.forecasting.issues import IssueRows
    from ai_hub.forecasting.log import Row, Run
    from ai_hub.registry import ModelVersion
    from ai_hub.settings import Settings

#: Seconds that a statement which reads features may take.
_READ_S: Final = 20.0
#: What is added to a forecast after the trees; no features.
CALIBRATION: Final = "(calibration)"
BOUNDS: Final = "(bounds)"


class ExplainedStep(NamedTuple):
    """The contributions to the forecast of a step."""

    columns: tuple[str, ...]
    #: by column, as the features were given
    given: dict[str, float | None]
    #: of one row
    contributions: Contributions


def explain(model: DayAheadModel, rows: IssueRows, lead: int, quantile: float | None) -> ExplainedStep:
    """What each feature adds to the forecast of one lead.

    The base is what is usual for the target (of turbines, what the wind gives), and the mean of the trees.
    Contributions of trees are multiples
    of the row's level, as their forecasts are; then calibration and bounds move the forecast.

    Args:
        model: the model.
        rows: one.
        lead: index of the step.
        quantile: which one; None: the point forecast.

    Raises:
        BadInputError: the model has no such quantile.
        ConflictError: it is not of LightGBM.
    """
    levels = model.recipe.levels
    raw, final = model.uncalibrated(rows), model.forecast(rows)
    size = model.levels(rows)
    x = matrix(rows, np.array([[lead]]), model.recipe.inputs, size)
    if not all(isinstance(each, lgb.Booster) for each in model.quantiles):
        raise not_explained("The model")
    if quantile is None and model.point is not None:
        booster, before, after = model.point, raw.values[0, lead], final.values[0, lead]
        calibrated = before
    else:
        wanted = MEDIAN if quantile is None else quantile
        if wanted not in levels:
            raise BadInputError(
                f"The model has no quantile {wanted:g}.",
                hint=f"It has {', '.join(f'{each:g}' for each in levels)}.",
            )
        place = levels.index(wanted)
        # quantiles that cross are put in order: the forecast may be another booster's
        order = np.argsort([float(each.predict(x)[0]) for each in model.quantiles], kind="stable")
        booster = model.quantiles[order[0 if model.recipe.has_middle else place]]
        before, after = raw.quantiles[0, lead, place], final.quantiles[0, lead, place]
        moved = model.calibration.apply(rows.assets, raw.quantiles, size, rows.step)
        calibrated = moved[0, lead, place]
    found = size[0] * np.asarray(booster.predict(x, pred_contrib=True, num_threads=1))[0, :-1]
    inputs = model.recipe.inputs
    given = {
        **{name: rows.scalars[name][0] for name in inputs.scalars},
        **{name: rows.arrays[name][0, lead] for name in inputs.arrays},
        inputs.columns[-1]: lead * (rows.step / HOUR),
    }
    moves = {CALIBRATION: calibrated - before, BOUNDS: after - calibrated}
    moves = {name: each for name, each in moves.items() if each}
    return ExplainedStep(
        (*inputs.columns, *moves),
        {name: None if np.isnan(each) else float(each) for name, each in given.items()},
        Contributions(
            np.array([[*found, *moves.values()]]), np.array([before - found.sum()]), np.array([after])
        ),
    )


def explain_logged(
    settings: Settings,
    version: ModelVersion,
    run: Run,
    rows: Sequence[Row],
    features: bytes | None,
    *,
    target: datetime,
    quantile: float | None,
) -> ExplainedStep:
    """What made a step of a run of the log, which is made again.

    Args:
        settings: of the database.
        version: of the model; its files are those of the run.
        run: the run.
        rows: those of one asset.
        features: what the log has of them, see `log.read_features`.
        target: start of the step.
        quantile: which one; None: the point forecast.

    Raises:
        BadInputError: the model has no such quantile.
        ConflictError: the forecast is another one now, or not of LightGBM.
        ServiceDownError: the database does not answer in time.
    """
    asset = rows[0].asset_id
    loaded = load(version)
    try:
        given = features_of(settings, loaded, run, [asset], features, limit_s=_READ_S)
    except (psycopg.OperationalError, dbapi.OperationalError) as error:
        raise ServiceDownError("TimescaleDB", "the features", str(error).partition("\n")[0]) from error
    again, grid = issue(loaded, given, known_at=run.known_at, leads=run.leads)
    if differing(again, grid, rows):
        raise ConflictError(
            f"Forecast {run.run_id} cannot be made again to the bit, so it is not explained: other features "
            "are known for its time now, or the libraries are others.",
            hint=f"`ai-hub forecast replay {run.run_id} --tenant {run.tenant}` says which.",
        )
    return explain(loaded.model, given, (target - run.issued_at) // run.step, quantile)

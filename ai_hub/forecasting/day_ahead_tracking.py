"""Puts models with a horizon, their backtests and pictures of them into MLflow."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlflow
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow.data.pandas_dataset import from_pandas
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from ai_hub.errors import ConflictError
from ai_hub.forecasting import estimators
from ai_hub.forecasting.backtest import MODEL
from ai_hub.forecasting.card import HORIZON_TAG, MAKER, MAKER_TAG, ModelCard
from ai_hub.forecasting.day_ahead import ROUNDS
from ai_hub.forecasting.issues import HOUR
from ai_hub.forecasting.log import Grid, Role, Run
from ai_hub.forecasting.models.loading import loader_of
from ai_hub.forecasting.predict import read_card
from ai_hub.forecasting.tracking import Logged, logged, metric_label, register_model, tracked_run
from ai_hub.forecasting.training_rows import FeatureRowsDataset
from ai_hub.registry import find_version, tenant_scope
from ai_hub.registry.versions import LATEST, NoSuchVersionError
from ai_hub.times import from_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.axes import Axes
    from mlflow.models.model import ModelInfo

    from ai_hub.forecasting.backtest import Backtest, Comparison
    from ai_hub.forecasting.day_ahead import DayAheadModel
    from ai_hub.forecasting.day_ahead_training import TrainedDayAhead
    from ai_hub.forecasting.issues import Floats

_REQUIREMENTS: Final = ("ai-hub", "mlflow", "lightgbm", "numpy", "pandas")
_ASSETS_AS_METRICS: Final = 30
_ASSETS_SHOWN: Final = 4
_ISSUES_SHOWN: Final = 7


def log_day_ahead(
    tenant: str,
    trained: TrainedDayAhead,
    *,
    register: bool,
    tags: Mapping[str, str] | None = None,
    on_logged: Callable[[], None] = lambda: None,
) -> Logged:
    """Log one run into the tenant's workspace, and register its model if asked.

    A failure leaves the run behind, marked as failed; nothing is registered then.

    Args:
        tenant: whose.
        trained: what.
        register: whether it becomes a version.
        tags: more of the run and the version.
        on_logged: called right before the registration.
    """
    tags = _tags(trained.card) | dict(tags or {})
    with tracked_run(tenant, trained.name, tags) as run:
        window = trained.window
        mlflow.log_params(
            {
                **_parameters(trained.card),
                **({} if trained.card.estimator else {"point": trained.card.point, "rounds": ROUNDS}),
                "issues": trained.issues,
                "window_start": window.start.isoformat(),
                "holdout_start": window.holdout.isoformat(),
                "window_end": window.end.isoformat(),
            }
        )
        mlflow.log_input(_training_rows(trained), context="training")
        mlflow.log_dict(trained.references, "feast_features.json")  # type: ignore[arg-type]  # a list is fine
        model = _log_model(trained.model, trained.card)
        _log_backtest(trained.backtest, trained.card, f"{trained.name}, tenant {tenant}", model.model_id)
    on_logged()
    version = register_model(trained.name, model, tags) if register else None
    return logged(tenant, run, version)


def log_backtest(tenant: str, name: str, card: ModelCard, backtest: Backtest, model_id: str | None) -> Logged:
    """Log a backtest as a run; with `model_id`, its metrics are also those of that logged model."""
    with tracked_run(tenant, name, {**_tags(card), "role": "backtest"}) as run:
        mlflow.log_params(_parameters(card))
        _log_backtest(backtest, card, f"{name}, tenant {tenant}", model_id)
    return logged(tenant, run, None)


def backtest_runs(
    tenant: str, name: str, card: ModelCard, backtest: Backtest, details: Mapping[str, Any]
) -> list[tuple[Run, Grid]]:
    """The forecasts of a backtest as the forecast log takes them: a run of no registered version an issue."""
    rows, forecasts = backtest.rows, backtest.forecasts
    found = []
    for at in np.unique(rows.issued_at):
        of_issue = np.flatnonzero(rows.issued_at == at)
        issued_at = from_micros(at.astype(np.int64))
        run = Run(
            tenant,
            name,
            *(None, None, None),
            Role.BACKTEST,
            issued_at=issued_at,
            known_at=issued_at,
            step=rows.step,
            horizon=rows.leads * rows.step,
            assets=tuple(map(str, rows.assets[of_issue])),
            unit=card.unit,
            details=details,
        )
        quantiles = {
            level: forecasts.quantiles[of_issue, :, place] for place, level in enumerate(forecasts.levels)
        }
        values = forecasts.values[of_issue]  # noqa: PD011  # no pandas
        found.append((run, Grid(values, quantiles)))
    return found


@dataclass(frozen=True)
class RegisteredModel:
    """A registered version with a horizon."""

    card: ModelCard
    #: of MLflow's logged model; None: it was registered in another way
    model_id: str | None


def find_model(tenant: str, model: str, version: str | None) -> RegisteredModel:
    """The card of a registered version, and its logged model; default: that in production, else the newest.

    Raises:
        ConflictError: it has no horizon.
        NotFoundError: there is no such version.
    """
    try:
        number = find_version(tenant, model, version or "production")
    except NoSuchVersionError:
        if version is not None:
            raise
        number = find_version(tenant, model, LATEST)
    loader, cached = loader_of(number)
    with loader.files(cached) as folder:
        card = read_card(str(folder))
    with tenant_scope(tenant):
        outputs = mlflow.MlflowClient().get_run(number.run_id).outputs if number.run_id else None
    if card is None or card.horizon_hours is None:
        raise ConflictError(
            f"{model} {number.semantic_version or number.version} does not forecast ahead.",
            hint="Test a model that was trained with --horizon, or a feature service with --service.",
        )
    models = outputs.model_outputs if outputs else []
    return RegisteredModel(card, models[0].model_id if models else None)


def _tags(card: ModelCard) -> dict[str, str]:
    # the `feast.` tags are those Feast's own MLflow integration resolves a model's features by
    return {
        "feature_service": card.feature_service,
        "feast.feature_service": card.feature_service,
        "feast.project": "ai_hub",
        "kind": card.kind,
        MAKER_TAG: MAKER,
        HORIZON_TAG: f"{card.horizon_hours:g}",
        **({"known_at": card.known_at} if card.known_at else {}),
    }


def _parameters(card: ModelCard) -> dict[str, Any]:
    return {
        "feature_service": card.feature_service,
        "features": ",".join(card.features),
        "kind": card.kind,
        "asset_count": len(card.assets),
        "horizon_hours": card.horizon_hours,
        "step_minutes": card.step_minutes,
        "quantiles": ",".join(f"{each:g}" for each in card.quantiles or ()),
        "issue": card.issue or "any",
        "estimator": card.estimator or estimators.DEFAULT,
        **({"monotone": monotone_text(card.monotone)} if card.monotone else {}),
        **({"known_at": card.known_at} if card.known_at else {}),
    }


def monotone_text(monotone: Mapping[str, int]) -> str:
    """As `--monotone` takes it, with commas."""
    return ",".join(f"{name}:{'+' if sign > 0 else '-'}" for name, sign in sorted(monotone.items()))


def _training_rows(trained: TrainedDayAhead) -> FeatureRowsDataset:
    names = [*trained.card.features, "actual"]
    return FeatureRowsDataset(
        trained.source,
        f"{trained.card.feature_service}-{trained.card.kind}",
        assets=trained.card.assets,
        row_count=trained.issues,
        schema=Schema([ColSpec(DataType.double, name) for name in names]),
    )


def _log_backtest(backtest: Backtest, card: ModelCard, title: str, model_id: str | None) -> None:
    dataset = from_pandas(
        forecast_rows(backtest), name=f"{card.feature_service}-{card.kind}-backtest", targets="actual"
    )
    mlflow.log_input(dataset, context="backtest")
    metrics = backtest_metrics(backtest)
    mlflow.log_metrics(metrics)
    if model_id is not None:
        mlflow.log_metrics(metrics, model_id=model_id, dataset=dataset)
    mlflow.log_dict(backtest.as_dict(), "backtest.json")
    mlflow.log_figure(backtest_plot(backtest, title=title), "backtest.png")


def backtest_metrics(backtest: Backtest) -> dict[str, float]:
    """By name: overall, by lead, and of the first assets; undefined ones are left out."""
    found = _metrics("", backtest.overall)
    for name, comparison in backtest.by_lead.items():
        found |= _metrics(f"lead.{name.replace(' ', '_')}.", comparison)
    for asset, comparison in list(backtest.by_asset.items())[:_ASSETS_AS_METRICS]:
        label = metric_label(asset)
        found |= {f"asset.{label}.{name}": each for name, each in comparison.model.as_metrics().items()}
    return found


def _metrics(prefix: str, comparison: Comparison) -> dict[str, float]:
    found = {f"{prefix}{name}": each for name, each in comparison.model.as_metrics().items()}
    if comparison.model.n:
        usual = comparison.scores[comparison.best_naive].as_metrics()
        found |= {f"{prefix}baseline_{name}": each for name, each in usual.items() if name != "n"}
    if np.isfinite(comparison.improvement):
        found[f"{prefix}improvement"] = comparison.improvement
    return found


def forecast_rows(backtest: Backtest) -> pd.DataFrame:
    """One row a target that counts: asset, time of issue, lead, actual value and forecasts."""
    rows, forecasts = backtest.rows, backtest.forecasts
    assert rows.actual is not None  # noqa: S101  # of a backtest
    row, lead = np.nonzero(backtest.scored)
    return pd.DataFrame(
        {
            "asset_id": rows.assets[row],
            "issued_at": pd.to_datetime(rows.issued_at[row]),
            "lead_hours": lead * (rows.step / HOUR),
            "actual": rows.actual[row, lead],
            "forecast": forecasts.values[row, lead],  # noqa: PD011  # no pandas
            **{
                f"q{each:g}": forecasts.quantiles[row, lead, position]
                for position, each in enumerate(forecasts.levels)
            },
        }
    )


def _log_model(model: DayAheadModel, card: ModelCard) -> ModelInfo:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # the signature says it all
        warnings.filterwarnings("ignore", ".*input example", UserWarning)
        requirements = [*_REQUIREMENTS, *(estimators.requirements(card.estimator) if card.estimator else ())]
        folder = Path(scratch) / "day_ahead"
        model.save(folder)
        logged: ModelInfo = mlflow.pyfunc.log_model(
            name="model",
            loader_module="ai_hub.forecasting.day_ahead",
            data_path=str(folder),
            signature=signature(model),
            pip_requirements=[f"{name}=={installed(name)}" for name in requirements],
            metadata=card.as_metadata(),
        )
    return logged


def signature(model: DayAheadModel) -> ModelSignature:
    """One row an issue: keys and features as Feast gives them, and lists of forecasts, one element a lead."""
    inputs, wide = model.recipe.inputs, Array(DataType.double)
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.string, "asset_id"),
                ColSpec(DataType.datetime, "event_timestamp"),
                *(ColSpec(DataType.double, name, required=False) for name in inputs.scalars),
                *(ColSpec(wide, name, required=False) for name in inputs.arrays),
            ]
        ),
        outputs=Schema(
            [ColSpec(wide, "forecast"), *(ColSpec(wide, f"q{each:g}") for each in model.recipe.levels)]
        ),
    )


def backtest_plot(backtest: Backtest, *, title: str) -> Figure:
    """Error and coverage by lead, and the newest forecasts of the first assets with their bands."""
    assets = list(backtest.by_asset)[:_ASSETS_SHOWN]
    figure = Figure(figsize=(12, 4 + 2.4 * len(assets)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    grid = figure.add_gridspec(1 + len(assets), 2, height_ratios=[1.4, *([1] * len(assets))])
    _plot_errors(figure.add_subplot(grid[0, 0]), backtest)
    _plot_coverage(figure.add_subplot(grid[0, 1]), backtest)
    for number, asset in enumerate(assets, 1):
        _plot_asset(figure.add_subplot(grid[number, :]), backtest, asset)
    return figure


def _hours(backtest: Backtest) -> Floats:
    return np.asarray(np.arange(backtest.rows.leads) * (backtest.rows.step / HOUR), dtype=np.float64)


def _plot_errors(axis: Axes, backtest: Backtest) -> None:
    actual = backtest.rows.actual
    assert actual is not None  # noqa: S101  # of a backtest
    counted = np.where(backtest.scored, 1.0, np.nan)
    size = np.nanmean(np.abs(actual * counted))
    is_share = bool(size > 0)
    lines = {MODEL: backtest.forecasts.values, **backtest.naive}  # noqa: PD011  # no pandas
    for (name, values), (color, style) in zip(
        lines.items(), (("tab:orange", "-"), ("0.35", "--"), ("0.6", ":")), strict=True
    ):
        axis.plot(
            _hours(backtest),
            _by_lead(np.abs(values - actual) * counted) / (size if is_share else 1),
            style,
            color=color,
            label=name,
        )
    axis.set(xlabel="lead (hours)", ylabel="MAE over mean" if is_share else "MAE", ylim=(0, None))
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def _plot_coverage(axis: Axes, backtest: Backtest) -> None:
    actual, forecasts = backtest.rows.actual, backtest.forecasts
    assert actual is not None  # noqa: S101  # of a backtest
    low, high = forecasts.quantiles[..., 0], forecasts.quantiles[..., -1]
    covered = (low <= actual) & (actual <= high)
    counted = backtest.scored & ((low < high) | ~covered)
    nominal = forecasts.levels[-1] - forecasts.levels[0]
    axis.plot(
        _hours(backtest), _by_lead(np.where(counted, covered, np.nan)), color="tab:blue", label="covered"
    )
    axis.axhline(nominal, color="0.35", linestyle="--", label=f"nominal {nominal:.0%}")
    axis.set(xlabel="lead (hours)", ylabel="part within the band", ylim=(0, 1))
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def _by_lead(values: Floats) -> Floats:
    """Mean of each column; NaN where it has no value."""
    count = np.isfinite(values).sum(axis=0)
    return np.asarray(
        np.where(count, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan), dtype=np.float64
    )


def _plot_asset(axis: Axes, backtest: Backtest, asset: str) -> None:
    rows, forecasts = backtest.rows, backtest.forecasts
    assert rows.actual is not None  # noqa: S101  # of a backtest
    counted = backtest.scored.any(axis=1)
    chosen = np.flatnonzero((rows.assets == asset) & counted)
    chosen = chosen[np.argsort(rows.issued_at[chosen])][-_ISSUES_SHOWN:]
    for number, row in enumerate(chosen):
        # of forecasts that overlap, the part before the next issue
        until = rows.issued_at[chosen[number + 1]] if number + 1 < len(chosen) else rows.ends[row, -1]
        shown = backtest.scored[row] & (rows.starts[row] < until)
        if not shown.any():
            shown = backtest.scored[row]
        times = rows.starts[row, shown]
        label = number == 0
        axis.fill_between(
            times,
            forecasts.quantiles[row, shown, 0],
            forecasts.quantiles[row, shown, -1],
            color="tab:orange",
            alpha=0.25,
            linewidth=0,
            label=f"{forecasts.levels[0]:.0%} to {forecasts.levels[-1]:.0%}" if label else None,
        )
        axis.plot(
            times, rows.actual[row, shown], color="0.15", linewidth=1.2, label="actual" if label else None
        )
        axis.plot(
            times,
            forecasts.values[row, shown],  # noqa: PD011  # no pandas
            color="tab:orange",
            linewidth=1.2,
            label="forecast" if label else None,
        )
    scores = backtest.by_asset[asset].model
    covered = f", {scores.coverage:.0%} within the band" if np.isfinite(scores.coverage) else ""
    axis.set_title(f"{asset}: MAE {scores.mae:.3g}{covered}", fontsize=10)
    axis.margins(x=0)
    axis.grid(alpha=0.3)
    if len(chosen):
        axis.legend(loc="upper right", fontsize=8, ncols=3)

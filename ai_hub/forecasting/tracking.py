"""Puts a trained model, and everything that explains it, into MLflow."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from io import StringIO
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import mlflow
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow.data.pandas_dataset import from_pandas
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.models import infer_signature

from ai_hub.forecasting import TARGET
from ai_hub.forecasting.card import MAKER, MAKER_TAG, ModelCard
from ai_hub.forecasting.dataset import Split, Window
from ai_hub.forecasting.evaluation import FORECAST, Evaluation
from ai_hub.forecasting.fitting import PARAMETERS, model_input
from ai_hub.forecasting.training_rows import FeatureRows, FeatureRowsDataset
from ai_hub.registry import enter_tenant
from mlflow_plugins.lineage_events import LineageDataset, model_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import ActiveRun as Run
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

    from ai_hub.forecasting.evaluation import Errors
    from mlflow_plugins.lineage_events import LineageRun


_DAYS_SHOWN = 14
_ASSETS_SHOWN = 12


def forecast_plot(evaluation: Evaluation, *, title: str) -> Figure:
    """One panel an asset with its last held-out days: actual values, the forecast and the best naive one.

    Of many assets the first dozen is shown.
    """
    assets = list(evaluation.by_asset)[:_ASSETS_SHOWN]
    figure = Figure(figsize=(12, 1 + 2.6 * len(assets)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(assets), 1, squeeze=False)[:, 0]
    for axis, asset in zip(axes, assets, strict=True):
        comparison = evaluation.by_asset[asset]
        hours = (
            evaluation.hours[evaluation.hours["asset_id"] == asset].set_index("event_timestamp").sort_index()
        )
        hours = hours[hours.index >= hours.index.max() - pd.Timedelta(days=_DAYS_SHOWN)]
        naive = comparison.best_naive
        axis.plot(hours.index, hours[naive], color="0.75", linewidth=1, label=f"naive: {naive}")
        axis.plot(hours.index, hours[TARGET], color="0.15", linewidth=1.2, label="actual")
        axis.plot(hours.index, hours[FORECAST], color="tab:orange", linewidth=1.2, label="forecast")
        axis.set_title(
            f"{asset}: MAE {comparison.model.mae:.3g}, {naive} {comparison.naive[naive].mae:.3g}", fontsize=10
        )
        axis.margins(x=0)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", fontsize=8, ncols=3)
    return figure


#: Libraries the logged model needs; `model.lgb` inside it needs LightGBM alone.
_REQUIREMENTS = ("mlflow", "lightgbm", "numpy", "pandas")
_EXAMPLE_ROWS = 3
#: MLflow takes a thousand metrics at once; the errors of every asset are in `evaluation.json`.
_ASSETS_AS_METRICS = 50


@dataclass(frozen=True)
class Trained:
    """A fitted model with its data and errors."""

    name: str
    card: ModelCard
    #: the features by view, as Feast names them
    references: list[str]
    window: Window
    source: FeatureRows
    split: Split
    booster: lgb.Booster
    rounds: int
    evaluation: Evaluation
    without_features: int
    #: a line for each feature that breaks its limits
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Logged:
    """Where a trained model is in MLflow; versions are None when it was not registered."""

    run_id: str
    run_url: str
    version: int | None
    semantic_version: str | None


def log(tenant: str, trained: Trained, *, register: bool) -> Logged:
    """Log one run into the tenant's workspace, and register its model if asked.

    A failure leaves the run behind, marked as failed; nothing is registered then.
    """
    with tracked_run(tenant, trained.name, _tags(trained)) as run:
        mlflow.log_params(_parameters(trained))
        mlflow.log_metrics(_metrics(trained.evaluation))
        _log_dataset(trained)
        mlflow.log_dict(trained.references, "feast_features.json")  # type: ignore[arg-type]  # a list is fine
        mlflow.log_dict(_details(trained), "evaluation.json")
        figure = forecast_plot(trained.evaluation, title=f"{trained.name}, tenant {tenant}: held-out days")
        mlflow.log_figure(figure, "forecast_vs_actual.png")
        model = _log_model(trained)
    version = register_model(trained.name, model, _tags(trained)) if register else None
    return logged(tenant, run, version)


@contextmanager
def tracked_run(tenant: str, experiment: str, tags: dict[str, str]) -> Iterator[Run]:
    """A run in the tenant's workspace; a failure leaves it behind, marked as failed."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    enter_tenant(tenant)
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # type: ignore[no-untyped-call]
    mlflow.set_experiment(experiment)
    with mlflow.start_run(tags=tags) as run:
        yield run


def register_model(name: str, model: ModelInfo, tags: dict[str, str]) -> Any:
    """Register a logged model; returns MLflow's version."""
    # MLflow announces each step on stderr; what fails is raised
    with redirect_stderr(StringIO()):
        return mlflow.register_model(model.model_uri, name, tags=tags)


def logged(tenant: str, run: Run, version: Any) -> Logged:
    """Where a run and a version are; without a version, it was not registered."""
    return Logged(
        run_id=run.info.run_id,
        run_url=f"{mlflow.get_tracking_uri()}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        f"?workspace={tenant}",
        version=int(version.version) if version else None,
        semantic_version=version.tags.get("semantic_version") if version else None,
    )


def describe_training(lineage: LineageRun, name: str, source: FeatureRows, logged: Logged) -> None:
    """Say of an event what a model was trained on, and which version or run has come of it."""
    known_at = source.known_at.isoformat()
    lineage.inputs = [LineageDataset(table, known_at) for table in source.tables]
    lineage.start, lineage.end = source.start, source.end
    if logged.version is None:
        lineage.outputs = [LineageDataset(f"runs/{logged.run_id}")]
    else:
        lineage.outputs = [model_version(name, logged.version, logged.semantic_version)]


def metric_label(name: str) -> str:
    """A name as a part of that of a metric: MLflow allows fewer characters than an asset's name may have."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_. /") else "_" for c in name)


def _tags(trained: Trained) -> dict[str, str]:
    # the `feast.` tags are those Feast's own MLflow integration resolves a model's features by
    return {
        "feature_service": trained.card.feature_service,
        "feast.feature_service": trained.card.feature_service,
        "feast.project": "ai_hub",
        "kind": trained.card.kind,
        MAKER_TAG: MAKER,
        **_known_at(trained),
    }


def _parameters(trained: Trained) -> dict[str, Any]:
    window = trained.window
    return {
        **PARAMETERS,
        "rounds": trained.rounds,
        "feature_service": trained.card.feature_service,
        "features": ",".join(trained.card.features),
        "kind": trained.card.kind,
        "asset_count": len(trained.card.assets),
        "window_start": window.start.isoformat(),
        "validation_start": window.validation.isoformat(),
        "holdout_start": window.holdout.isoformat(),
        "window_end": window.end.isoformat(),
        "rows_train": len(trained.split.train),
        "rows_validation": len(trained.split.validation),
        "rows_holdout": len(trained.split.holdout),
        "rows_without_features": trained.without_features,
        **_known_at(trained),
    }


def _known_at(trained: Trained) -> dict[str, str]:
    known_at = trained.card.known_at
    return {"known_at": known_at} if known_at else {}


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    overall = evaluation.overall
    metrics = overall.model.as_metrics()
    metrics |= _prefixed("baseline_", overall.naive[overall.best_naive])
    for name, naive in overall.naive.items():
        metrics |= _prefixed(f"naive.{name.replace(' ', '_')}.", naive)
    for asset, comparison in list(evaluation.by_asset.items())[:_ASSETS_AS_METRICS]:
        label = metric_label(asset)
        metrics |= _prefixed(f"asset.{label}.", comparison.model)
        metrics |= _prefixed(f"asset.{label}.baseline_", comparison.naive[comparison.best_naive])
    metrics |= {"improvement": overall.improvement, "hours_not_compared": evaluation.not_compared}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _prefixed(prefix: str, errors: Errors) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in errors.as_metrics().items() if name != "hours"}


def _details(trained: Trained) -> dict[str, Any]:
    """What does not fit into parameters and metrics."""
    evaluation = trained.evaluation
    return {
        "assets": trained.card.assets,
        "overall": evaluation.overall.as_dict(),
        "by_asset": {asset: found.as_dict() for asset, found in evaluation.by_asset.items()},
    }


def _log_dataset(trained: Trained) -> None:
    columns = [*trained.card.features, TARGET]
    window, split = trained.window, trained.split
    for context, part, start, end in (
        ("training", split.train, window.start, window.validation),
        ("validation", split.validation, window.validation, window.holdout),
        ("holdout", split.holdout, window.holdout, window.end),
    ):
        rows = from_pandas(part[columns].astype("float64"), targets=TARGET)
        described = FeatureRowsDataset(
            trained.source.within(start, end),
            f"{trained.card.feature_service}-{trained.card.kind}",
            assets=trained.card.assets,
            row_count=len(part),
            schema=rows.schema,
            digest=rows.digest,
        )
        mlflow.log_input(described, context=context)


def _signature(example: pd.DataFrame, booster: lgb.Booster) -> ModelSignature:
    return infer_signature(example, booster.predict(example))


def _log_model(trained: Trained) -> ModelInfo:
    complete = trained.split.train.dropna(subset=trained.card.features)
    rows = complete if len(complete) else trained.split.train
    example = model_input(rows.tail(_EXAMPLE_ROWS), trained.card.features)
    logged: ModelInfo = mlflow.lightgbm.log_model(
        trained.booster,
        name="model",
        signature=_signature(example, trained.booster),
        input_example=example,
        pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
        metadata=trained.card.as_metadata(),
    )
    return logged

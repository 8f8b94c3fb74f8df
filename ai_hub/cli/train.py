# ruff: noqa: PLC0415 - Feast, MLflow and LightGBM load only in the commands that need them
"""`ai-hub train` and `ai-hub predict`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ai_hub.cli.main import app

if TYPE_CHECKING:
    from ai_hub.training.evaluation import Comparison
    from ai_hub.training.predict import Forecast, LoadedModel
    from ai_hub.training.tracking import Logged, Trained

Tenant = Annotated[str, typer.Option("--tenant", help="whose data and models")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@app.command("train")
def train_command(
    *,
    tenant: Tenant,
    service: Annotated[str, typer.Option("--service", help="feature service to train on")] = "forecast_basic",
    kind: Annotated[
        str | None, typer.Option("--kind", help="only meters of this kind, such as electricity")
    ] = None,
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="only this meter; may be repeated")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="name [default: demand-forecast-KIND]")] = None,
    weeks: Annotated[int, typer.Option("--weeks", min=3, help="history to use")] = 26,
    holdout_weeks: Annotated[
        int, typer.Option("--holdout-weeks", min=1, help="newest weeks, kept for testing")
    ] = 4,
    until: Annotated[
        datetime | None,
        typer.Option("--until", help="end of the history, in UTC [default: the newest reading]"),
    ] = None,
    register: Annotated[bool, typer.Option("--register/--no-register", help="register the model")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a load forecast for each kind of meter, compare it with naive forecasts, and register it."""
    from ai_hub.features.store import open_store
    from ai_hub.training.train import plan, train_and_log

    console = Console(stderr=True)
    with console.status("planning") as status:
        plans = plan(tenant, service, kind=kind, assets=asset or (), model=model)
        store = open_store()
        results = []
        for wanted in plans:
            window = replace(
                wanted,
                weeks=weeks,
                holdout_weeks=holdout_weeks,
                until=until.replace(tzinfo=UTC) if until else None,
            )
            results.append(
                train_and_log(
                    store,
                    window,
                    register=register,
                    on_step=lambda step, name=wanted.model: status.update(f"{name}: {step}"),  # type: ignore[misc]
                )
            )
    if as_json:
        typer.echo(json.dumps([_summary(tenant, *result) for result in results], indent=2))
        return
    for trained, logged in results:
        _show_training(tenant, trained, logged)


@app.command("predict")
def predict_command(
    *,
    tenant: Tenant,
    model: Annotated[str, typer.Option("--model", help="registered model")],
    asset: Annotated[
        list[str] | None,
        typer.Option("--asset", help="only this meter; may be repeated [default: the trained ones]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast the hour with the production model and the newest features from Redis."""
    from ai_hub.features.store import open_store
    from ai_hub.training.predict import load, predict

    loaded = load(tenant, model)
    forecasts = predict(open_store(), loaded, asset or ())
    if as_json:
        typer.echo(json.dumps(_prediction(loaded, forecasts), indent=2))
        return
    _show_forecasts(loaded, forecasts)


def _summary(tenant: str, trained: Trained, logged: Logged) -> dict[str, Any]:
    evaluation = trained.evaluation
    return {
        "tenant": tenant,
        "model": trained.name,
        **asdict(logged),
        **asdict(trained.card),
        "window": {name: at.isoformat() for name, at in vars(trained.window).items()},
        "rounds": trained.rounds,
        "rows_without_features": trained.without_features,
        "overall": _comparison(evaluation.overall),
        "by_asset": {asset: _comparison(found) for asset, found in evaluation.by_asset.items()},
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "model": found.model.as_metrics(),
        "naive": {name: naive.as_metrics() for name, naive in found.naive.items()},
        "best_naive": found.best_naive,
        "improvement": found.improvement,
    }


def _show_training(tenant: str, trained: Trained, logged: Logged) -> None:
    console = Console()
    window, unit = trained.window, f" ({trained.card.unit})" if trained.card.unit else ""
    table = Table(
        title=f"{trained.name}, {tenant}: held out {window.holdout:%Y-%m-%d} to {window.end:%Y-%m-%d}",
        caption=f"{trained.card.feature_service}, {trained.rounds} rounds; "
        "naive: best of last hour, same hour yesterday, same hour last week",
    )
    table.add_column("meter")
    for heading in (f"MAE{unit}", "naive MAE", "better by", "RMSE", "naive RMSE", "WAPE", "MASE"):
        table.add_column(heading, justify="right")
    table.add_column("best naive")
    rows = {"all": trained.evaluation.overall, **trained.evaluation.by_asset}
    for name, found in rows.items():
        naive = found.naive[found.best_naive]
        table.add_row(
            name,
            f"{found.model.mae:.3f}",
            f"{naive.mae:.3f}",
            f"{found.improvement:+.1%}",
            f"{found.model.rmse:.3f}",
            f"{naive.rmse:.3f}",
            f"{found.model.wape:.1%}",
            f"{found.model.mase:.2f}",
            found.best_naive,
        )
    console.print(table)
    if trained.without_features:
        console.print(f"{trained.without_features} hours had no feature row of their own and were left out.")
    if logged.version:
        registered = f"{trained.name} {logged.semantic_version} (version {logged.version})"
        console.print(f"Registered {registered} in staging.", highlight=False)
    console.print(f"Run: {logged.run_url}", highlight=False, soft_wrap=True)


def _prediction(loaded: LoadedModel, forecasts: list[Forecast]) -> dict[str, Any]:
    version = loaded.version
    return {
        "tenant": version.tenant,
        "model": version.model,
        "version": version.version,
        "semantic_version": version.semantic_version,
        "feature_service": loaded.card.feature_service,
        "unit": loaded.card.unit,
        "forecasts": [
            asdict(forecast) | {"hour": forecast.hour.isoformat() if forecast.hour else None}
            for forecast in forecasts
        ],
    }


_WHY = {
    "ok": "",
    "late": "the hour is over; materialize newer features",
    "stale": "too old to forecast from; run `ai-hub refresh` and `feast materialize-incremental`",
    "incomplete": "cannot forecast without the missing features",
    "unknown": "not in Redis; check the name, run `feast materialize-incremental`",
}


def _show_forecasts(loaded: LoadedModel, forecasts: list[Forecast]) -> None:
    console = Console()
    version = loaded.version
    table = Table(
        title=f"{version.model} {version.semantic_version} (version {version.version}, production), "
        f"tenant {version.tenant}"
    )
    table.add_column("meter")
    table.add_column("hour (UTC)")
    table.add_column(f"forecast{f' ({loaded.card.unit})' if loaded.card.unit else ''}", justify="right")
    table.add_column("status")
    for name in loaded.card.features:
        table.add_column(name, justify="right")
    for forecast in forecasts:
        table.add_row(
            forecast.asset_id,
            f"{forecast.hour:%Y-%m-%d %H:%M}" if forecast.hour else "-",
            "-" if forecast.value is None else f"{forecast.value:.3f}",
            forecast.status,
            *(_number(forecast.features[name]) for name in loaded.card.features),
        )
    console.print(table)
    for forecast in forecasts:
        notes = [_WHY[forecast.status]] if _WHY[forecast.status] else []
        if forecast.missing:
            notes.append(f"missing: {', '.join(forecast.missing)}")
        if notes:
            console.print(f"{forecast.asset_id}: {'; '.join(notes)}.", highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return "missing"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

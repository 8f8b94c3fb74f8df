"""`ai-hub train` and `ai-hub predict`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from ai_hub.forecasting import NAIVE_HOURS
from ai_hub.times import assume_utc

if TYPE_CHECKING:
    from ai_hub.errors import AiHubError
    from ai_hub.forecasting.predict import Forecast, LoadedModel
    from ai_hub.forecasting.tracking import Logged, Trained


#: Exit status when some kinds of meters were trained and others were not.
_PARTLY = 4

Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the data and models")]


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
    weeks: Annotated[int, typer.Option("--weeks", min=3, help="history to use")] = 56,
    holdout_weeks: Annotated[
        int, typer.Option("--holdout-weeks", min=1, help="newest weeks, kept for testing")
    ] = 4,
    until: Annotated[
        datetime | None,
        typer.Option("--until", help="end of the history, in UTC [default: the newest reading]"),
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(
            "--known-at", help="train with what was known at this ISO time, UTC if naive [default: now]"
        ),
    ] = None,
    register: Annotated[bool, typer.Option("--register/--no-register", help="register the model")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a load forecast for each kind of meter, compare it with naive forecasts, and register it.

    A kind that cannot be trained is named with its meters; the others are trained, and the exit status is 4.
    """
    from ai_hub.cli.errors import explain
    from ai_hub.features.store import open_store
    from ai_hub.forecasting.train import plan, train_and_log

    console = common.console(stderr=True)
    known_at_time = parse_time(known_at, "--known-at") if known_at else None
    if known_at_time is not None and known_at_time > datetime.now(UTC):
        raise BadInputError(f"--known-at {known_at} is in the future.", hint="Give a time in the past.")
    failures: dict[str, AiHubError] = {}
    results = []
    with console.status("planning") as status:
        plans = plan(tenant, service, kind=kind, assets=asset or (), model=model, known_at=known_at_time)
        store = open_store(known_at=known_at_time)
        for model_plan in plans:
            window = replace(
                model_plan,
                weeks=weeks,
                holdout_weeks=holdout_weeks,
                until=assume_utc(until) if until else None,
            )
            try:
                results.append(
                    train_and_log(
                        store,
                        window,
                        register=register,
                        on_step=lambda step, name=model_plan.model: status.update(Text(f"{name}: {step}")),  # type: ignore[misc]
                    )
                )
            except Exception as error:  # noqa: BLE001  # one kind's data says nothing of the others
                failures[f"{model_plan.kind} ({', '.join(model_plan.assets)})"] = explain(error)
    if as_json:
        typer.echo(json.dumps([_summary(tenant, *result) for result in results], indent=2))
    else:
        for trained, logged in results:
            _show_training(tenant, trained, logged)
    for name, failure in failures.items():
        console.print(f"Not trained: {name}: {failure.message}", style="red", highlight=False, soft_wrap=True)
        if failure.hint:
            console.print(failure.hint, highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(_PARTLY if results else next(iter(failures.values())).exit_code)


@app.command("predict")
def predict_command(
    *,
    tenant: Tenant,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="registered model; may be repeated [default: all in production]"),
    ] = None,
    asset: Annotated[
        list[str] | None,
        typer.Option("--asset", help="only this meter; may be repeated [default: the trained ones]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast the hour with the production models and the newest features from Redis.

    Fails when there are features for no meter at all.
    """
    from ai_hub.features.store import open_store
    from ai_hub.imports import without

    with without("sklearn"):  # a second, for nothing that a booster needs
        from ai_hub.forecasting.predict import load, predict, production_models

    models = [load(tenant, name) for name in model or production_models(tenant)]
    store = open_store()
    results = [(loaded, predict(store, loaded, asset or ())) for loaded in models]
    if as_json:
        typer.echo(json.dumps([_prediction(*result) for result in results], indent=2))
    else:
        for result in results:
            _show_forecasts(*result)
    if all(forecast.value is None for _, forecasts in results for forecast in forecasts):
        raise typer.Exit(1)


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
        "warnings": trained.warnings,
        "overall": evaluation.overall.as_dict(),
        "by_asset": {asset: errors.as_dict() for asset, errors in evaluation.by_asset.items()},
    }


_ERROR_COLUMNS = ("MAE", "naive MAE", "better by", "RMSE", "WAPE", "MASE")


def _show_training(tenant: str, trained: Trained, logged: Logged) -> None:
    console = common.console()
    window, unit = trained.window, f" ({trained.card.unit})" if trained.card.unit else ""
    table = Table(
        Column("meter", overflow="fold"),
        *(Column(heading, justify="right") for heading in _ERROR_COLUMNS),
        box=SIMPLE_HEAD,
    )
    rows = dict(trained.evaluation.by_asset)
    if len(rows) > 1:
        rows["all"] = trained.evaluation.overall
    for name, errors in rows.items():
        table.add_row(
            name,
            f"{errors.model.mae:.3f}",
            f"{errors.naive[errors.best_naive].mae:.3f} ({NAIVE_HOURS[errors.best_naive]} h)",
            f"{errors.improvement:+.1%}",
            f"{errors.model.rmse:.3f}",
            f"{errors.model.wape:.1%}",
            f"{errors.model.mase:.2f}",
        )
    console.print(
        f"\n{trained.name} of {tenant} on {trained.card.feature_service}: "
        f"errors{unit} from {window.holdout:%Y-%m-%d} to {window.end:%Y-%m-%d}",
        highlight=False,
    )
    console.print(table)
    if trained.card.known_at:
        console.print(f"Trained with what was known at {trained.card.known_at}.", highlight=False)
    console.print("naive: the value 1, 24 or 168 hours before, whichever is best", highlight=False)
    if trained.without_features:
        console.print(f"{trained.without_features} hours had no feature row of their own and were left out.")
    for line in trained.warnings:
        console.print(line, highlight=False, soft_wrap=True)
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
    "late": "the hour is over; materialize newer features",
    "stale": "too old to forecast from; run `ai-hub refresh` and `feast materialize-incremental`",
    "incomplete": "cannot forecast without the missing features",
    "unknown": "not in Redis; check the name, run `feast materialize-incremental`",
}


def _show_forecasts(loaded: LoadedModel, forecasts: list[Forecast]) -> None:
    console = common.console()
    version = loaded.version
    table = Table(
        Column("meter", overflow="fold"),
        Column("hour (UTC)", no_wrap=True),
        Column(f"forecast{f' ({loaded.card.unit})' if loaded.card.unit else ''}", justify="right"),
        "status",
        box=SIMPLE_HEAD,
    )
    for forecast in forecasts:
        table.add_row(
            forecast.asset_id,
            f"{forecast.hour:%Y-%m-%d %H:%M}" if forecast.hour else "-",
            "-" if forecast.value is None else f"{forecast.value:.3f}",
            forecast.status,
        )
    console.print(
        f"\n{version.model} {version.semantic_version} of {version.tenant}, in production", highlight=False
    )
    console.print(table)
    for forecast in forecasts:
        if note := _WHY.get(forecast.status):
            console.print(f"{forecast.asset_id}: {note}", highlight=False, soft_wrap=True)
        if forecast.asset_id not in loaded.card.assets:
            console.print(f"{forecast.asset_id}: the model was not trained on it", highlight=False)
        if forecast.hour:
            features = ", ".join(f"{name} {_number(value)}" for name, value in forecast.features.items())
            console.print(f"{forecast.asset_id}: {features}", style="dim", highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    if value is None:
        return "missing"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

"""`ai-hub predict`: forecasts of the next hour, written nowhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from ai_hub.forecasting.predict import Forecast, LoadedModel


@app.command("predict")
def predict_command(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="tenant of the data and models")],
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

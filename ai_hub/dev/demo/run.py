"""The whole product end to end: real servers, real data, real promotion, real prediction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rich.table import Table

from ai_hub.client import Client
from ai_hub.dev.demo import data, drift
from ai_hub.dev.demo.steps import Steps
from ai_hub.errors import ForbiddenError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


SERVICE = "forecast_advanced"
TENANTS = ("illinois", "uk-home")


@dataclass(frozen=True)
class Forecaster:
    """A model the demo trained, promoted and predicted with."""

    tenant: str
    model: str
    version: str
    mae: float
    naive_mae: float
    best_naive: str
    unit: str

    @property
    def improvement(self) -> float:
        """Share of the naive forecast's mean absolute error that the model saves."""
        return 1 - self.mae / self.naive_mae


def run(console: Console, *, weeks: int | None = None) -> list[Forecaster]:
    """Run the demo and print what happened; safe to repeat.

    Args:
        console: Where it prints.
        weeks: Newest weeks of the sample meters to use; default: all.

    Raises:
        StepFailedError: a command failed.
    """
    steps = Steps(console)
    # one hour for all steps: were it over in between, the newest features would lack its readings
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    series, forecasters = predict(steps, hour, weeks)
    ahead = _forecast(steps, TENANTS)
    _serve(steps, forecasters[0], series, hour)
    drift.promote(steps, drift.show(steps, hour))
    _summarize(console, steps, forecasters)
    _show_ahead(console, ahead)
    return forecasters


def predict(
    steps: Steps, hour: datetime, weeks: int | None, tenants: Sequence[str] = TENANTS
) -> tuple[list[data.DemoSeries], list[Forecaster]]:
    """The first half: from the meters of these tenants to predictions of their models in production.

    Raises:
        StepFailedError: a command failed.
    """
    _prepare_databases(steps)
    # MLflow starts slowly and is not needed before training
    with steps.in_background("ai-hub", "up", "--detach"):
        series = _ingest(steps, hour, weeks, tenants)
        _compute(steps, hour)
    forecasters = _train(steps, tenants)
    _promote(steps, forecasters)
    _refuse(steps, forecasters[0])
    _predict(steps, forecasters)
    return series, forecasters


def _prepare_databases(steps: Steps) -> None:
    steps.begin("Start the databases and apply the SQL migrations")
    steps.run("ai-hub", "up", "--detach", "--only", "timescaledb", "--only", "redis", "--only", "s3")
    steps.run("ai-hub", "migrate")
    steps.end("TimescaleDB, Redis and S3 are up; MLflow starts beside the next steps")


def _ingest(steps: Steps, hour: datetime, weeks: int | None, tenants: Sequence[str]) -> list[data.DemoSeries]:
    steps.begin(f"Bring in meters and weather of {' and '.join(tenants)}")
    series = [item for item in data.prepare(now=hour, weeks=weeks) if item.tenant in tenants]
    # meters name the weather that they take, which must be there
    for group in (
        [item for item in series if not item.weather_asset],
        [item for item in series if item.weather_asset],
    ):
        steps.run_together([_asset_command(item) for item in group], shown=False)
    written = unchanged = 0
    for item, report in zip(
        series, steps.json_together([_ingest_command(item) for item in series]), strict=True
    ):
        counts = ", ".join(
            f"{report[what]:,} {what}" for what in ("inserted", "updated", "unchanged", "rejected")
        )
        steps.console.print(f"{item.tenant}/{item.asset}: {counts}", highlight=False)
        written += report["inserted"] + report["updated"]
        unchanged += report["unchanged"]
    steps.end(f"{written:,} rows written, {unchanged:,} already there; {len(series)} series")
    return series


def _asset_command(series: data.DemoSeries) -> list[str]:
    command = ["ai-hub", "asset", "add", series.asset, "--tenant", series.tenant, "--kind", series.kind]
    command += ["--timezone", series.timezone]
    if series.role == "readings":
        command += ["--unit", series.unit]
    if series.weather_asset:
        command += ["--weather-from", series.weather_asset]
    return command


def _ingest_command(series: data.DemoSeries) -> list[str]:
    command = ["ai-hub", "ingest", series.role, str(series.file), "--tenant", series.tenant]
    command += ["--asset", series.asset]
    return [*command, "--temperature-unit" if series.role == "weather" else "--unit", series.unit]


def _compute(steps: Steps, hour: datetime) -> None:
    steps.begin("Compute features, and put the newest into Redis")
    rows = steps.json("ai-hub", "refresh")["rows"]
    steps.console.print(f"{rows:,} feature rows computed", highlight=False)
    steps.run("feast", "apply", shown=False)
    steps.run("feast", "materialize-incremental", f"{hour:%Y-%m-%dT%H:%M:%S}", shown=False)
    steps.end(f"{rows:,} feature rows computed; three feature services applied and materialized")


def _train(steps: Steps, tenants: Sequence[str]) -> list[Forecaster]:
    steps.begin(f"Train forecasts for {' and '.join(tenants)}")
    commands = [["ai-hub", "train", "--tenant", tenant, "--service", SERVICE] for tenant in tenants]
    forecasters = [_forecaster(summary) for answer in steps.json_together(commands) for summary in answer]
    for forecaster in forecasters:
        steps.console.print(
            f"{forecaster.tenant}: {forecaster.model} version {forecaster.version}, "
            f"held-out MAE {forecaster.mae:.3f} {forecaster.unit}, "
            f"best naive ({forecaster.best_naive}) {forecaster.naive_mae:.3f}: {forecaster.improvement:+.1%}",
            highlight=False,
        )
    steps.end(f"{len(forecasters)} models registered in staging")
    return forecasters


def _forecaster(summary: dict[str, Any]) -> Forecaster:
    overall = summary["overall"]
    return Forecaster(
        tenant=summary["tenant"],
        model=summary["model"],
        version=str(summary["version"]),
        mae=overall["model"]["mae"],
        naive_mae=overall["naive"][overall["best_naive"]]["mae"],
        best_naive=overall["best_naive"],
        unit=summary.get("unit") or "",
    )


def _promote(steps: Steps, forecasters: list[Forecaster]) -> None:
    steps.begin("Ask the promotion gates about a version, then promote to production")
    wishes = [
        [
            *(forecaster.model, "--tenant", forecaster.tenant, "--version", forecaster.version),
            *("--reason", f"held-out MAE {forecaster.improvement:+.1%} against naive"),
        ]
        for forecaster in forecasters
    ]
    steps.run("ai-hub", "gates", *wishes[0])
    steps.run_together([["ai-hub", "promote", *wish] for wish in wishes])
    steps.end(f"{len(forecasters)} models in production, through the gates of policy/promotion_policy.yaml")


def _refuse(steps: Steps, forecaster: Forecaster) -> None:
    steps.begin("Try an illegal move: from production back to staging")
    steps.refused(
        *("ai-hub", "promote", forecaster.model, "--tenant", forecaster.tenant),
        *("--version", forecaster.version, "--stage", "staging", "--reason", "just trying"),
    )
    steps.end("refused by the registry, as it must be")


def _predict(steps: Steps, forecasters: list[Forecaster]) -> None:
    steps.begin("Predict with the production models")
    tenants = sorted({forecaster.tenant for forecaster in forecasters})
    steps.run_together([["ai-hub", "predict", "--tenant", tenant] for tenant in tenants])
    steps.end("forecasts from get_online_features and the production versions")


def _forecast(steps: Steps, tenants: Sequence[str]) -> list[dict[str, Any]]:
    """Train, promote and issue forecasts of two days; what training said of each model."""
    steps.begin("Forecast two days ahead with quantiles, and keep it in the forecast log")
    commands = [["ai-hub", "train", "--tenant", tenant, "--horizon", "48h"] for tenant in tenants]
    models = [summary for answer in steps.json_together(commands) for summary in answer]
    reason = ("--reason", "the first forecast of two days")
    steps.run_together(
        [
            [
                "ai-hub",
                "promote",
                each["model"],
                "--tenant",
                each["tenant"],
                "--version",
                str(each["version"]),
                *reason,
            ]
            for each in models
        ],
        shown=False,
    )
    steps.run_together([["ai-hub", "forecast", "run", "--tenant", tenant] for tenant in tenants])
    first = models[0]
    picture = Path("exports") / f"forecast-{first['assets'][0]}.png"
    picture.parent.mkdir(exist_ok=True)
    steps.run("ai-hub", "forecast", "plot", first["assets"][0], str(picture), "--tenant", first["tenant"])
    steps.end(f"{len(models)} models in production; {picture} shows the forecast of {first['assets'][0]}")
    return models


def _serve(steps: Steps, forecaster: Forecaster, series: list[data.DemoSeries], hour: datetime) -> None:
    # a model's name ends in the kind of its meters
    assets = [
        item.asset
        for item in series
        if item.tenant == forecaster.tenant
        and item.role == "readings"
        and forecaster.model.endswith(item.kind)
    ]
    other = next(item.tenant for item in series if item.tenant != forecaster.tenant)
    _use_service(
        steps,
        tenant=forecaster.tenant,
        other_tenant=other,
        model=forecaster.model,
        assets=assets,
        hour=hour,
    )


def _summarize(console: Console, steps: Steps, forecasters: list[Forecaster]) -> None:
    console.print()
    table = Table(title="What happened", show_lines=False)
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("result")
    for step in steps.done:
        table.add_row(step.title, f"{step.seconds:.1f}", step.result)
    console.print(table)

    table = Table(title="Forecast error on held-out weeks (mean absolute error)")
    for heading in ("tenant", "model", "version"):
        table.add_column(heading)
    for heading in ("LightGBM", "best naive", "better by"):
        table.add_column(heading, justify="right")
    for forecaster in forecasters:
        table.add_row(
            forecaster.tenant,
            forecaster.model,
            forecaster.version,
            f"{forecaster.mae:.3f} {forecaster.unit}",
            f"{forecaster.naive_mae:.3f} {forecaster.unit}",
            f"{forecaster.improvement:+.1%}",
        )
    console.print(table)

    address = Settings().require("mlflow_tracking_uri")
    console.print("Look at it:", style="bold")
    console.print(
        f"  the REST service: {Settings().require('ai_hub_api_url')}/docs", soft_wrap=True, highlight=False
    )
    console.print(
        f"  forecasts beside what was measured: {Settings().require('ai_hub_api_url')}/forecasts/ "
        "(with a key of `ai-hub keys create`)",
        soft_wrap=True,
        highlight=False,
    )
    for tenant in sorted({forecaster.tenant for forecaster in forecasters}):
        console.print(
            f"  models of {tenant}: {address}/#/models?workspace={tenant}", soft_wrap=True, highlight=False
        )
    console.print('  a shell with all settings: eval "$(ai-hub env)"; psql', highlight=False)
    console.print("  stop it and delete its data: make demo-down", highlight=False)


def _show_ahead(console: Console, models: list[dict[str, Any]]) -> None:
    """Error of the forecasts with a horizon by lead, beside the best naive one that was possible."""
    table = Table(title="Error of two days' forecasts by lead, on held-out weeks (mean absolute error)")
    for heading in ("tenant", "model", "lead"):
        table.add_column(heading)
    for heading in ("LightGBM", "best naive", "better by"):
        table.add_column(heading, justify="right")
    for model in models:
        unit = model.get("unit") or ""
        for lead, scores in model["by_lead"].items():
            naive = min(
                each["mae"] for name, each in scores.items() if isinstance(each, dict) and name != "model"
            )
            table.add_row(
                model["tenant"],
                model["model"],
                lead,
                f"{scores['model']['mae']:.3f} {unit}",
                f"{naive:.3f} {unit}",
                f"{scores['improvement']:+.1%}",
            )
    console.print(table)


_WEEK = timedelta(weeks=1)
_SHOWN = 4


def _use_service(
    steps: Steps, *, tenant: str, other_tenant: str, model: str, assets: Sequence[str], hour: datetime
) -> None:
    """Ask for features of `assets`, predict with the production version of `model`, export a week.

    Raises:
        StepFailedError: no key could be made.
        AiHubError: the service refuses what it should not.
    """
    steps.begin("Ask the REST service, with a key of one tenant")
    key = steps.json(
        *("ai-hub", "keys", "create", f"demo-{uuid4().hex[:8]}"),
        *("--tenant", tenant, "--role", "engineer", "--expires", "1d"),
    )["key"]
    service = Settings().require("ai_hub_api_url")
    say = steps.console.print
    with Client(service, api_key=key, tenant=tenant) as client:
        for row in client.features(list(assets), "forecast_basic").results:
            values = ", ".join(
                f"{name} {_short(value)}" for name, value in list(row.features.items())[:_SHOWN]
            )
            say(f"POST /ai/features/get    {row.asset_id} from {row.source}: {values}, …", highlight=False)
        for prediction in client.predict(model, list(assets)):
            say(
                f"{model} {prediction.semantic_version}: {prediction.asset_id} {prediction.value:.3f} "
                f"for the hour from {prediction.hour:%H:%M} UTC",
                highlight=False,
            )
        job = client.export("forecast_advanced", hour - _WEEK, hour)
        say(f"POST /ai/features/export {job.message} {job.storage_path}", soft_wrap=True, highlight=False)
    with Client(service, api_key=key, tenant=other_tenant) as client:
        try:
            client.feature_sets()
            client.features(assets[0])
        except ForbiddenError as error:
            say(f"with the same key, for {other_tenant}: {error.message}", style="yellow", highlight=False)
        else:
            raise AssertionError(f"a key of {tenant} opened {other_tenant}")
    steps.end(
        f"features, {len(assets)} predictions and {job.row_count:,} exported rows; {other_tenant} refused"
    )


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)

"""The whole product end to end: real servers, real data, real promotion, real prediction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table

from ai_hub.demo import data
from ai_hub.demo.steps import Steps
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

SERVICE = "forecast_advanced"


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


def run(console: Console) -> list[Forecaster]:
    """Run the demo and print what happened; safe to repeat.

    Raises:
        StepFailedError: a command failed.
    """
    steps = Steps(console)
    _prepare_servers(steps)
    series = _ingest(steps)
    _compute(steps)
    tenants = sorted({each.tenant for each in series})
    forecasters = [each for tenant in tenants for each in _train(steps, tenant)]
    _promote(steps, forecasters)
    _refuse(steps, forecasters[0])
    _predict(steps, forecasters)
    _summarize(console, steps, forecasters)
    return forecasters


def _prepare_servers(steps: Steps) -> None:
    steps.begin("Start the servers and prepare the database")
    steps.run("ai-hub", "up", "--detach")
    steps.run("ai-hub", "migrate")
    steps.end("TimescaleDB, Redis, S3 and MLflow are up")


def _ingest(steps: Steps) -> list[data.DemoSeries]:
    steps.begin("Bring in two tenants' meters and weather")
    series = data.prepare()
    written = unchanged = 0
    for each in series:
        asset = ["ai-hub", "asset", "add", each.asset, "--tenant", each.tenant, "--kind", each.kind]
        asset += ["--timezone", each.timezone]
        ingest = [
            "ai-hub",
            "ingest",
            each.role,
            str(each.file),
            "--tenant",
            each.tenant,
            "--asset",
            each.asset,
        ]
        if each.role == "weather":
            ingest += ["--temperature-unit", each.unit]
        else:
            asset += ["--unit", each.unit]
            ingest += ["--unit", each.unit]
        if each.weather_asset:
            asset += ["--weather-from", each.weather_asset]
        steps.run(*asset, shown=False)
        report = steps.json(*ingest, shown=True)
        written += report["inserted"] + report["updated"]
        unchanged += report["unchanged"]
        steps.console.print(
            ", ".join(
                f"{report[what]:,} {what}" for what in ("inserted", "updated", "unchanged", "rejected")
            ),
            highlight=False,
        )
    steps.end(f"{written:,} rows written, {unchanged:,} already there; {len(series)} series")
    return series


def _compute(steps: Steps) -> None:
    steps.begin("Compute features, and put the newest into Redis")
    rows = steps.json("ai-hub", "refresh", shown=True)["rows"]
    steps.console.print(f"{rows:,} feature rows computed", highlight=False)
    steps.run("feast", "apply", shown=False)
    steps.run("feast", "feature-services", "list")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    steps.run("feast", "materialize-incremental", now, shown=False)
    steps.end(f"{rows:,} feature rows computed; three feature services applied and materialized")


def _train(steps: Steps, tenant: str) -> list[Forecaster]:
    steps.begin(f"Train forecasts for {tenant}")
    found = []
    for summary in steps.json("ai-hub", "train", "--tenant", tenant, "--service", SERVICE, shown=True):
        overall = summary["overall"]
        forecaster = Forecaster(
            tenant=tenant,
            model=summary["model"],
            version=str(summary["version"]),
            mae=overall["model"]["mae"],
            naive_mae=overall["naive"][overall["best_naive"]]["mae"],
            best_naive=overall["best_naive"],
            unit=summary.get("unit") or "",
        )
        steps.console.print(
            f"{forecaster.model} version {forecaster.version}: held-out MAE {forecaster.mae:.3f} "
            f"{forecaster.unit}, best naive ({forecaster.best_naive}) {forecaster.naive_mae:.3f}: "
            f"{forecaster.improvement:+.1%}",
            highlight=False,
        )
        found.append(forecaster)
    steps.end(", ".join(f"{each.model} v{each.version} in staging" for each in found))
    return found


def _promote(steps: Steps, forecasters: list[Forecaster]) -> None:
    steps.begin("Promote to production")
    for each in forecasters:
        reason = f"held-out MAE {each.improvement:+.1%} against naive"
        steps.run(
            "ai-hub",
            "promote",
            each.model,
            "--tenant",
            each.tenant,
            "--version",
            each.version,
            "--reason",
            reason,
        )
    steps.end(f"{len(forecasters)} models in production")


def _refuse(steps: Steps, forecaster: Forecaster) -> None:
    steps.begin("Try an illegal move: from production back to staging")
    steps.refused(
        *("ai-hub", "promote", forecaster.model, "--tenant", forecaster.tenant),
        *("--version", forecaster.version, "--stage", "staging", "--reason", "just trying"),
    )
    steps.end("refused by the registry, as it must be")


def _predict(steps: Steps, forecasters: list[Forecaster]) -> None:
    steps.begin("Predict with the production models")
    for each in forecasters:
        steps.run("ai-hub", "predict", "--tenant", each.tenant, "--model", each.model)
    steps.end("forecasts from get_online_features and the production versions")


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
    for each in forecasters:
        table.add_row(
            each.tenant,
            each.model,
            each.version,
            f"{each.mae:.3f} {each.unit}",
            f"{each.naive_mae:.3f} {each.unit}",
            f"{each.improvement:+.1%}",
        )
    console.print(table)

    address = Settings().require("mlflow_tracking_uri")
    console.print("Look at it:", style="bold")
    for tenant in sorted({each.tenant for each in forecasters}):
        console.print(
            f"  models of {tenant}: {address}/#/models?workspace={tenant}", soft_wrap=True, highlight=False
        )
    console.print('  a shell with all settings: eval "$(ai-hub env)"; psql', highlight=False)
    console.print("  stop and delete everything: make demo-down", highlight=False)

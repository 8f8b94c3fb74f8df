"""`ai-hub forecast`: forecasts of the production model, and the log of all that were issued."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.main import app
from ai_hub.errors import NotFoundError

if TYPE_CHECKING:
    from rich.console import Console

    from ai_hub.forecasting.log import Run, ValidRow

forecast_app = typer.Typer(name="forecast", no_args_is_help=True, help="Forecasts, and the log of them.")
app.add_typer(forecast_app)
Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the meters and models")]
_PLAIN_WIDTH = 160
_Model = Annotated[str | None, typer.Option("--model", help="only forecasts of this model")]


class RunRole(StrEnum):
    """What a run is for, see `ai_hub.forecasting.log.Role`, which takes NumPy to import."""

    LIVE = "live"
    SHADOW = "shadow"
    REPLAY = "replay"
    BACKTEST = "backtest"


@forecast_app.command("show")
def show_command(
    asset: Annotated[str, typer.Argument(help="the meter")],
    *,
    tenant: Tenant,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", help="the forecast that was valid at this ISO time, UTC if naive [default: now]"
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="first time that is forecast [default: that of --as-of]")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="end of the times that are forecast; not included")
    ] = None,
    step: Annotated[
        str | None,
        typer.Option("--step", help="only forecasts with this step, such as 15min [default: the newest's]"),
    ] = None,
    model: _Model = None,
    as_json: AsJson = False,
) -> None:
    """Show the forecast of a meter that is valid, or was at a time: the newest live issue recorded by then.

    A step for which the newest issue has no value has that of the one before.
    """
    from ai_hub.cli.ingest_options import duration_option
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import log

    at = parse_time(as_of, "--as-of") if as_of else datetime.now(UTC)
    with transaction(common.settings(), tenant) as connection:
        rows = log.valid_at(
            connection,
            tenant,
            asset,
            at,
            start=parse_time(start, "--from") if start else None,
            end=parse_time(end, "--to") if end else None,
            model=model,
            step=duration_option(step, "--step") if step else None,
        )
    if not rows:
        first = parse_time(start, "--from") if start else at
        raise NotFoundError(
            f"No forecast of {asset} (tenant {tenant}) was recorded by {at:%Y-%m-%d %H:%M:%SZ} for the times "
            f"from {first:%Y-%m-%d %H:%MZ} on.",
            hint=f"`ai-hub forecast runs --tenant {tenant} --asset {asset}` shows what was issued; "
            "--from shows past times.",
        )
    if as_json:
        typer.echo(json.dumps(_valid_as_dict(tenant, asset, at, rows), indent=2))
    else:
        _show_valid(asset, at, rows)


def _valid_as_dict(tenant: str, asset: str, at: datetime, rows: list[ValidRow]) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "asset": asset,
        "as_of": at.isoformat(),
        "step_minutes": rows[0].step.total_seconds() / 60,
        "unit": rows[-1].unit,
        "forecasts": [
            {
                "timestamp": row.target_time.isoformat(),
                **{name: getattr(row, name) for name in ("value", "q10", "q50", "q90", "status")},
                "run": str(row.run_id),
                "issued_at": row.issued_at.isoformat(),
                "recorded_at": row.recorded_at.isoformat(),
                **{name: getattr(row, name) for name in ("model", "version", "semantic_version")},
            }
            for row in rows
        ],
    }


def _wide_console() -> Console:
    """Where nobody looks, as wide as the tables need."""
    console = common.console()
    return console if console.is_terminal else common.console(width=_PLAIN_WIDTH)


def _show_valid(asset: str, at: datetime, rows: list[ValidRow]) -> None:
    console = _wide_console()
    last = rows[-1]
    table = Table(
        Column("time (UTC)", no_wrap=True),
        Column(f"forecast{f' ({last.unit})' if last.unit else ''}", justify="right"),
        Column("10 %", justify="right"),
        Column("90 %", justify="right"),
        "status",
        Column("issued (UTC)", no_wrap=True),
        Column("model", overflow="fold"),
        box=SIMPLE_HEAD,
    )
    for row in rows:
        table.add_row(
            f"{row.target_time:%Y-%m-%d %H:%M}",
            *(_number(value) for value in (row.value, row.q10, row.q90)),
            row.status,
            f"{row.issued_at:%Y-%m-%d %H:%M}",
            f"{row.model} {row.semantic_version or row.version}",
        )
    minutes = last.step.total_seconds() / 60
    console.print(
        f"\n{asset} in steps of {minutes:g} minutes, as valid at {at:%Y-%m-%d %H:%M:%SZ}", highlight=False
    )
    console.print(table)


@forecast_app.command("runs")
def runs_command(
    *,
    tenant: Tenant,
    asset: Annotated[str | None, typer.Option("--asset", help="only runs with this meter")] = None,
    model: _Model = None,
    role: Annotated[RunRole | None, typer.Option("--role", help="only runs for this")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="show at most this many")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="skip this many")] = 0,
    as_json: AsJson = False,
) -> None:
    """List what was issued, newest first."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import log

    with transaction(common.settings(), tenant) as connection:
        runs, total = log.list_runs(
            connection,
            tenant,
            asset=asset,
            model=model,
            role=None if role is None else log.Role(role),
            limit=limit,
            offset=offset,
        )
    if as_json:
        typer.echo(json.dumps([_run_as_dict(run) for run in runs], indent=2))
        return
    if not runs:
        typer.echo("There are no such forecasts.")
        return
    table = Table(
        Column("run", no_wrap=True),
        "issued (UTC)",
        "recorded (UTC)",
        Column("model", overflow="fold"),
        "role",
        Column("meters", justify="right"),
        Column("steps", no_wrap=True),
        "status",
        box=SIMPLE_HEAD,
    )
    for run in runs:
        table.add_row(
            str(run.run_id),
            f"{run.issued_at:%Y-%m-%d %H:%M}",
            f"{run.recorded_at:%Y-%m-%d %H:%M:%S}" if run.recorded_at else "-",
            f"{run.model} {run.semantic_version or run.version or '(not registered)'}",
            run.role,
            f"{len(run.assets):,}",
            f"{run.leads} x {run.step.total_seconds() / 60:g} min",
            run.status or "-",
        )
    _wide_console().print(table)
    if (older := total - offset - len(runs)) > 0:
        typer.echo(f"… and {older} older ones (--limit, --offset)")


def _run_as_dict(run: Run) -> dict[str, Any]:
    return {
        "run": str(run.run_id),
        "tenant": run.tenant,
        "model": run.model,
        "version": run.version,
        "semantic_version": run.semantic_version,
        "manifest_sha256": run.manifest_sha256,
        "role": run.role.value,
        "issued_at": run.issued_at.isoformat(),
        "known_at": run.known_at.isoformat(),
        "recorded_at": run.recorded_at.isoformat() if run.recorded_at else None,
        "step_minutes": run.step.total_seconds() / 60,
        "horizon_hours": run.horizon.total_seconds() / 3600,
        "status": run.status,
        "assets": list(run.assets),
        "unit": run.unit,
        "details": dict(run.details),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

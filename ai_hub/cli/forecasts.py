"""`ai-hub forecast replay | show | plot | runs` and `ai-hub scores`: the log of all forecasts issued."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.issuing import forecast_app, run_as_dict
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.forecasting import By

if TYPE_CHECKING:
    from rich.console import Console

    from ai_hub.forecasting.log import ValidRow

Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the meters and models")]
_PLAIN_WIDTH = 160
_Model = Annotated[str | None, typer.Option("--model", help="only forecasts of this model")]


class RunRole(StrEnum):
    """What a run is for, see `ai_hub.forecasting.log.Role`, which takes NumPy to import."""

    LIVE = "live"
    SHADOW = "shadow"
    REPLAY = "replay"
    BACKTEST = "backtest"


@forecast_app.command("replay")
def replay_command(
    run_id: Annotated[UUID, typer.Argument(metavar="RUN", help="as `ai-hub forecast runs` shows it")],
    *,
    tenant: Tenant,
    record: Annotated[
        bool, typer.Option("--record", help="also write the replay to the log, as a run of its own")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a logged run again with what was known at its time; fails where a bit differs."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import log
    from ai_hub.imports import without

    with without("sklearn"):  # a second, for nothing that a booster needs
        from ai_hub.forecasting.replay import replay

    with transaction(common.settings(), tenant) as connection:
        logged = log.find_run(connection, tenant, run_id)
        rows, features = log.read_rows(connection, logged), log.read_features(connection, logged)
    replayed = replay(common.settings(), logged, rows, features)
    if record:
        with transaction(common.settings(), tenant) as connection:
            log.write(connection, replayed.run, replayed.grid)
    if as_json:
        summary = {"run": str(run_id), "rows": replayed.rows, "differing": replayed.differing}
        summary |= {
            "same_features": replayed.same_features,
            "replay": str(replayed.run.run_id) if record else None,
        }
        typer.echo(json.dumps(summary))
    elif not replayed.differing:
        typer.echo(f"{replayed.rows:,} rows are the same to the last bit")
    else:
        why = {
            True: "from the same features: the library or the machine is another one",
            False: "as other features are known for that time now"
            + (", or Redis had an older row then" if logged.details.get("source") == "redis" else ""),
            None: "",
        }[replayed.same_features]
        typer.echo(f"{replayed.differing:,} of {replayed.rows:,} rows differ {why}".rstrip())
    if replayed.differing:
        raise typer.Exit(1)


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


@forecast_app.command("plot")
def plot_command(
    asset: Annotated[str, typer.Argument(help="the meter")],
    output: Annotated[Path, typer.Argument(metavar="FILE", help="PNG file to write")],
    *,
    tenant: Tenant,
    days: Annotated[int, typer.Option("--days", min=1, max=31, help="past days to show")] = 3,
    lead_hours: Annotated[
        int,
        typer.Option(
            "--lead-hours", min=0, max=168, help="of each hour the newest forecast issued so long before"
        ),
    ] = 0,
    model: _Model = None,
) -> None:
    """Draw the hourly live forecasts of a meter, with their band, beside what was measured."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting.accuracy import HORIZON, accuracy, picture

    now = datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=days)
    with transaction(common.settings(), tenant) as connection:
        found = accuracy(
            connection,
            tenant,
            asset,
            start,
            now + HORIZON,
            now=now,
            lead=timedelta(hours=lead_hours),
            model=model,
        )
    if not any(each.value is not None for each in found.hours):
        raise NotFoundError(
            f"The log has no hourly forecast of {asset} (tenant {tenant}) from {start:%Y-%m-%d %H:%MZ} on.",
            hint=f"Issue one with `ai-hub forecast run --tenant {tenant}`.",
        )
    picture(found, now).savefig(output, format="png")
    typer.echo(f"{output}: {len(found.hours)} hours of {asset}")


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
        typer.echo(json.dumps([run_as_dict(run) for run in runs], indent=2))
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


@app.command("scores")
def scores_command(
    *,
    tenant: Tenant,
    by: Annotated[By, typer.Option("--by", help="what they are told apart by")] = By.VERSION,
    role: Annotated[RunRole, typer.Option("--role", help="of the runs")] = RunRole.LIVE,
    asset: Annotated[str | None, typer.Option("--asset", help="only of this meter")] = None,
    model: _Model = None,
    start: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="first day (UTC)")
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="end of the days; not included")
    ] = None,
    settled: Annotated[
        bool, typer.Option("--settled", help="only days whose readings are taken for complete")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how good the forecasts of the log were, as of the last `ai-hub refresh`.

    Errors are in the unit of the meters. Hours are provisional until FORECAST_SETTLED_DAYS have passed.
    """
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting.accuracy import live_scores, settled_before
    from ai_hub.forecasting.log import Role

    if start and end and start >= end:
        raise BadInputError("The range is empty: --from is not before --to.", hint="--to is not included.")
    settings = common.settings()
    with transaction(settings, tenant) as connection:
        found = live_scores(
            connection,
            tenant,
            by,
            settled_before=settled_before(settings, datetime.now(UTC)),
            is_settled=settled,
            role=Role(role),
            asset=asset,
            model=model,
            start=start.date() if start else None,
            end=end.date() if end else None,
        )
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
        return
    if not found:
        typer.echo("There are no such scores: nothing was measured, or `ai-hub refresh` has not run since.")
        return
    table = Table(
        Column("model", overflow="fold"),
        "lead (hours)" if by is By.LEAD else by,
        *(
            Column(name, justify="right")
            for name in (
                *("hours", "provisional", "MAE", "RMSE", "bias", "MAE/mean", "skill"),
                *("pinball", "in band", "width"),
            )
        ),
        box=SIMPLE_HEAD,
    )
    for each in found:
        table.add_row(
            each.model,
            each.of,
            f"{each.hours:,}",
            f"{each.provisional_hours:,}",
            *(_number(value) for value in (each.mae, each.rmse, each.bias)),
            *(_share(value) for value in (each.mae_over_mean, each.skill)),
            _number(each.pinball),
            _share(each.coverage),
            _number(each.width),
        )
    _wide_console().print(table)

"""`ai-hub migrate | refresh | features | materialize | freshness | push`: features, computed and online."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import (
    LOOPBACK,
    AsJson,
    MetricsHost,
    MetricsPort,
    check_metrics_port,
    duration_text,
    parse_time,
    say,
    served_metrics,
)
from ai_hub.cli.main import app
from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from ai_hub.features.freshness import Metrics, ViewFreshness
    from ai_hub.features.materialize import Follower, Pass
    from feast_plugins.windows.database import Progress as ViewProgress


@app.command()
def migrate(*, as_json: AsJson = False) -> None:
    """Apply SQL migrations, functions and views to TimescaleDB; fit new chunks to the rate of readings.

    Also sets how long forecasts are kept (FORECAST_RETENTION_DAYS).
    """
    from ai_hub.db.chunks import follow_rate, set_forecast_retention
    from ai_hub.db.migrate import migrate as apply

    outcome = apply()
    chunks = follow_rate()
    days = common.settings().forecast_retention_days
    retention_changed = set_forecast_retention(days)
    if as_json:
        intervals = {name: after.total_seconds() for name, _, after in chunks}
        summary = {"applied": outcome.applied, "code_applied": outcome.code_applied}
        summary["forecast_retention_days"] = days
        typer.echo(json.dumps(summary | {"chunk_seconds": intervals}))
        return
    for name in outcome.applied:
        typer.echo(f"applied {name}")
    if outcome.code_applied:
        typer.echo("applied functions and views")
    for name, before, after in chunks:
        typer.echo(f"new chunks of {name} hold {after} instead of {before}")
    if retention_changed:
        typer.echo("forecasts are kept for ever" if days is None else f"forecasts are kept for {days} days")
    if not outcome.changed and not chunks and not retention_changed:
        typer.echo("already up to date")


@app.command()
def refresh(
    *,
    since: Annotated[
        str | None, typer.Option(help="Recompute everything from this ISO time on (UTC if naive).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute features for new, late and corrected readings and weather. Safe to repeat and to kill."""
    from ai_hub.db.refresh import refresh as run

    start = None if since is None else parse_time(since, "--since")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=common.console(stderr=True), disable=as_json, transient=True) as bar:
        weeks = bar.add_task("aggregates", total=None)
        rows = bar.add_task("features", total=None)
        outcome = run(
            since=start,
            aggregating=lambda done, total: bar.update(weeks, completed=done, total=total),
            progress=lambda done, total: bar.update(rows, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps({"rows": outcome.rows, "changed": outcome.changed}))
    else:
        typer.echo(f"{outcome.rows:,} feature rows computed, {outcome.changed:,} of them new or different")


features_app = typer.Typer(no_args_is_help=True, help="Feature views that the feature repository declares.")
app.add_typer(features_app, name="features")


@features_app.command("list")
def features_list(*, as_json: AsJson = False) -> None:
    """Show how many rows of each declared view are stored; the others are computed whenever they are read."""
    from ai_hub.db import connect
    from feast_plugins.windows import database as declared

    with connect(application_name="ai-hub features") as connection:
        declared.require_catalog(connection)
        views = declared.progress(connection)
    _print_progress(views, as_json=as_json)


@features_app.command("backfill")
def features_backfill(
    view: Annotated[str | None, typer.Argument(help="only this declared view")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Store the whole history of declared views. After a kill, the same command or a refresh resumes."""
    from ai_hub.db import connect
    from ai_hub.db.refresh import refresh
    from feast_plugins.windows import database as declared

    with connect(autocommit=True, application_name="ai-hub features") as connection:
        declared.require_catalog(connection)
        names = declared.request_backfill(connection, view)
    with common.progress_bar(quiet=as_json) as bar:
        aggregates = bar.add_task("aggregates", total=None)
        rows = bar.add_task("features", total=None)
        refresh(
            aggregating=lambda done, total: bar.update(aggregates, completed=done, total=total),
            progress=lambda done, total: bar.update(
                rows, completed=done, total=total, description=f"features, {done:,} rows"
            ),
        )
    with connect(application_name="ai-hub features") as connection:
        views = [row for row in declared.progress(connection) if row.view in names]
    _print_progress(views, as_json=as_json)


def _print_progress(views: list[ViewProgress], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(view) for view in views]))
        return
    if not views:
        typer.echo("No feature view is declared. docs/declared-features.md shows how to add one.")
        return
    table = Table(
        "declared view",
        Column("assets", justify="right"),
        Column("rows", justify="right"),
        Column("stored", justify="right"),
        box=SIMPLE_HEAD,
    )
    for row in views:
        share = f"{row.stored:,} ({row.stored / row.rows:.0%})" if row.rows else "0"
        table.add_row(row.view, f"{row.assets:,}", f"{row.rows:,}", share)
    common.console().print(table)


check_app = typer.Typer(no_args_is_help=True, help="Checks of what is stored.")
app.add_typer(check_app, name="check")


@check_app.command("features")
def check_features_command(
    view: Annotated[str | None, typer.Argument(help="only this view")] = None,
    *,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", help="only this tenant; may be repeated")
    ] = None,
    since: Annotated[str, typer.Option("--since", help="how far back rows are checked, such as 7d")] = "7d",
    as_json: AsJson = False,
) -> None:
    """Check feature rows against the limits of their fields; fails where a feature refuses violations.

    Also compares the rows that the service has served, a sample of them, with history.
    `ai-hub ingest findings` lists what was found, until a check that covers it finds it no more.
    """
    from ai_hub.cli.ingest_options import duration_option
    from ai_hub.features.checks import check_features
    from ai_hub.features.skew import check_served, skew_lines
    from ai_hub.features.store import open_store
    from ai_hub.features.validation import violation_lines

    store = open_store()
    outcome = check_features(
        store, view=view, tenants=tenant or None, since=duration_option(since, "--since")
    )
    skew = check_served(store, tenants=tenant or None)
    if as_json:
        summary = {"rows": outcome.rows, "new": len(outcome.new), "resolved": outcome.resolved}
        summary["violations"] = [each.as_dict() for each in outcome.violations]
        summary["served"] = {
            "compared": skew.compared,
            "not_compared": skew.not_compared,
            "resolved": skew.resolved,
            "skew": [
                {"tenant_id": tenant_id, "asset_id": asset_id, **finding.as_dict()}
                for tenant_id, asset_id, finding in skew.found
            ],
        }
        typer.echo(json.dumps(summary, indent=2))
    else:
        for line in violation_lines(outcome.violations):
            typer.echo(line)
        checked = ", ".join(f"{name} {rows:,}" for name, rows in outcome.rows.items())
        typer.echo(
            f"rows checked of {checked}: {len(outcome.new):,} findings are new, {outcome.resolved:,} resolved"
            if checked
            else "No feature view has limits. docs/declared-features.md shows how to set them."
        )
        for line in skew_lines(skew):
            typer.echo(line)
    if outcome.refused:
        raise typer.Exit(1)


@check_app.command("readings")
def check_readings_command(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="tenant of the assets")],
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="only this asset; may be repeated")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that is stored of assets, however it was written, for gaps and wrong readings.

    Ingest does the same around what it writes, but does not look for clock shifts: run this daily.
    `ai-hub ingest findings` lists what was found.
    """
    from ai_hub.db import connect
    from ai_hub.ingest.checks import check_stored
    from ai_hub.ingest.report import check_lines

    with connect(autocommit=True, application_name="ai-hub check readings") as connection:
        checked, outcome = check_stored(connection, tenant, asset or None)
    if as_json:
        lists = {"new": outcome.new, "resolved": outcome.resolved}
        findings = {
            name: [{"asset_id": asset_id, **finding.as_dict()} for asset_id, finding in of_list]
            for name, of_list in lists.items()
        }
        typer.echo(json.dumps({"assets": checked} | findings, indent=2))
        return
    for line in check_lines(outcome.new, outcome.resolved):
        typer.echo(line)
    typer.echo(f"{len(checked):,} assets checked")


_PLAIN_WIDTH = 120


@app.command("materialize")
def materialize_command(
    *,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", help="only this tenant; may be repeated")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="repeat after each refresh, until stopped")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="with --follow: seconds between checks for a refresh")
    ] = 30,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh/--no-refresh", help="also refresh the features (embedded servers have no scheduler)"
        ),
    ] = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
) -> None:
    """Write the newest features of each asset to Redis; with --follow, after each refresh."""
    from ai_hub.features.materialize import Follower, materialize
    from ai_hub.features.newest import Scope
    from ai_hub.features.store import open_store

    check_metrics_port(metrics_port, follow=follow)
    scope, store = Scope(tenants=tenant), open_store()
    if follow:
        from ai_hub.features.freshness import Metrics

        metrics = Metrics(forget_after=timedelta(seconds=store.config.online_store.key_ttl_seconds))
        with served_metrics(metrics.registry, metrics_host, metrics_port):
            follower = Follower(store, scope, ages=metrics_port is not None)
            _follow(follower, metrics, interval, refresh=refresh)
        return
    if refresh:
        from ai_hub.db.refresh import refresh as refresh_features

        refresh_features()
    done = materialize(store, scope)
    for line in done.violations:
        typer.echo(line, err=True)
    typer.echo(_line(done))


def _follow(follower: Follower, metrics: Metrics, interval: float, *, refresh: bool) -> None:
    from ai_hub.dev.status import translate
    from ai_hub.features.materialize import follow

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def on_pass(done: Pass) -> None:
        metrics.note(done)
        for line in done.new_violations:
            say(line)
        say(_line(done))

    def on_outage(error: BaseException, wait: float) -> None:
        metrics.note_failure()
        explained = error if isinstance(error, AiHubError) else translate(error)
        reason = " ".join((explained.message if explained else str(error)).split())
        say(f"{reason} Trying again in {duration_text(wait)}.")

    follow(follower, stop, interval=interval, refresh=refresh, on_pass=on_pass, on_outage=on_outage)
    say("stopped")


def _line(done: Pass) -> str:
    if done.refreshes == 0:
        return "nothing new"
    what = {None: "everything", 1: "1 refresh"}.get(done.refreshes, f"{done.refreshes} refreshes")
    written = ", ".join(f"{view} {count}" for view, count in done.rows.items())
    refused = f"; {done.refused} refused" if done.refused else ""
    return f"{what} in {duration_text(done.seconds)}: rows written to {written}{refused}"


@app.command("freshness")
def freshness_command(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="only this tenant")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the age of the newest reading behind what is online, for each tenant and feature view."""
    from ai_hub.features.freshness import freshness
    from ai_hub.features.store import open_store

    rows = freshness(open_store(), tenant)
    now = datetime.now(UTC)
    if as_json:
        typer.echo(json.dumps([_as_json(row, now) for row in rows], indent=2))
        return
    table = Table(
        "tenant",
        Column("feature view", no_wrap=True),
        "newest reading (UTC)",
        Column("age", justify="right"),
        "slowest asset",
        Column("its age", justify="right"),
        Column("online", justify="right"),
        box=SIMPLE_HEAD,
    )
    for row in rows:
        table.add_row(
            row.tenant,
            row.feature_view,
            f"{row.newest_reading:%Y-%m-%d %H:%M}" if row.newest_reading else "-",
            _age(row.age(now)),
            row.slowest_asset or "-",
            _age(row.slowest_age(now)),
            f"{row.online}/{row.assets}",
        )
    console = common.console()
    (console if console.is_terminal else common.console(width=_PLAIN_WIDTH)).print(table)


def _as_json(row: ViewFreshness, now: datetime) -> dict[str, object]:
    ages = {"age_seconds": row.age(now), "slowest_age_seconds": row.slowest_age(now)}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(row).items()
    } | {name: age and age.total_seconds() for name, age in ages.items()}


def _age(age: timedelta | None) -> str:
    return duration_text(age.total_seconds()) if age is not None else "-"


@app.command("push")
def push_command(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="tenant of the meter")],
    asset: Annotated[str, typer.Option("--asset", help="the meter")],
    value: Annotated[float, typer.Option("--value", help="what it read, in the meter's unit")],
    time: Annotated[
        str | None, typer.Option("--time", help="when, as an ISO time, UTC if naive [default: now]")
    ] = None,
    quality: Annotated[str, typer.Option("--quality", help="good, estimated or suspect")] = "good",
) -> None:
    """Store one reading and write it to Redis at once, with the features computed from it."""
    from ai_hub.features.push import Reading, push
    from ai_hub.features.store import open_store

    at = parse_time(time, "--time") if time else datetime.now(UTC)
    reading = Reading(tenant, asset, at, value, quality)
    result = push(open_store(), reading)
    if result.online_time is None:
        typer.echo("stored; a register has counted nothing before its second reading")
    elif result.online_time > at:
        typer.echo(f"stored; online stays the newer reading of {result.online_time:%Y-%m-%d %H:%M:%SZ}")
    else:
        typer.echo(f"latest_reading is online after {duration_text(result.online_s)}")
    written = (
        ", ".join(name for name, count in result.features.rows.items() if count)
        or "no view: no row is new enough"
    )
    typer.echo(f"features are online after {duration_text(result.features_s)}: {written}")

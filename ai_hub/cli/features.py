"""`ai-hub materialize`, `ai-hub freshness` and `ai-hub push`: features in Redis, and how fresh they are."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import plain
from ai_hub.cli.main import app
from ai_hub.cli.times import duration, parse_time
from ai_hub.errors import AiHubError, BadInputError

if TYPE_CHECKING:
    from feast import FeatureStore

    from ai_hub.features.freshness import ViewFreshness
    from ai_hub.features.materialize import Follower, Pass
    from ai_hub.features.metrics import Metrics

_LOOPBACK = "127.0.0.1"
_PLAIN_WIDTH = 120


@app.command("materialize")
def materialize_command(
    *,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", help="only this tenant; may be repeated")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="go on, after each refresh, until stopped")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="with --follow: seconds between looks for a refresh")
    ] = 30,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh/--no-refresh", help="also refresh the features (embedded servers: nobody else does)"
        ),
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="with --follow: serve Prometheus metrics there")
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", help="address they are served on")
    ] = _LOOPBACK,
) -> None:
    """Put the newest features of each asset into Redis; with --follow, after each refresh."""
    from ai_hub.features.materialize import Follower, materialize
    from ai_hub.features.newest import Scope
    from ai_hub.features.store import open_store

    if metrics_port is not None and not follow:
        raise BadInputError("--metrics-port needs --follow.", hint="One pass ends before anybody could look.")
    scope, store = Scope(tenants=tenant), open_store()
    if follow:
        with ExitStack() as stack:
            metrics = _serve_metrics(stack, store, metrics_host, metrics_port)
            follower = Follower(store, scope, ages=metrics_port is not None)
            _follow(follower, metrics, interval, refresh=refresh)
        return
    if refresh:
        from ai_hub.database.refresh import refresh as refresh_features

        refresh_features()
    typer.echo(_line(materialize(store, scope)))


def _serve_metrics(stack: ExitStack, store: FeatureStore, host: str, port: int | None) -> Metrics:
    """Metrics of a follower; served while `stack` is open, if a port is given."""
    from ai_hub.features.metrics import Metrics, served

    metrics = Metrics(forget_after=timedelta(seconds=store.config.online_store.key_ttl_seconds))
    if port is not None:
        try:
            bound = stack.enter_context(served(metrics, host, port))
        except OSError as error:
            raise BadInputError(f"--metrics-port {port}: {error.strerror or error}.") from error
        _say(f"metrics on http://{host}:{bound}/metrics")
    return metrics


def _follow(follower: Follower, metrics: Metrics, interval: float, *, refresh: bool) -> None:
    from ai_hub.dev.status import translate
    from ai_hub.features.follow import follow

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def on_pass(done: Pass) -> None:
        metrics.note(done)
        _say(_line(done))

    def on_outage(error: BaseException, wait: float) -> None:
        metrics.note_failure()
        known = error if isinstance(error, AiHubError) else translate(error)
        reason = " ".join((known.message if known else str(error)).split())
        _say(f"{reason} Trying again in {duration(wait)}.")

    follow(follower, stop, interval=interval, refresh=refresh, on_pass=on_pass, on_outage=on_outage)
    _say("stopped")


def _say(text: str) -> None:
    """One line of a log, with the time."""
    typer.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {text}")


def _line(done: Pass) -> str:
    if done.refreshes == 0:
        return "nothing new"
    what = {None: "everything", 1: "1 refresh"}.get(done.refreshes, f"{done.refreshes} refreshes")
    written = ", ".join(f"{view} {count}" for view, count in done.rows.items())
    return f"{what} in {duration(done.seconds)}: rows written to {written}"


@app.command("freshness")
def freshness_command(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="only this tenant")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Show the age of the newest reading behind what is online, for each tenant and feature view."""
    from ai_hub.features.freshness import freshness
    from ai_hub.features.store import open_store

    found = freshness(open_store(), tenant)
    now = datetime.now(UTC)
    if as_json:
        typer.echo(json.dumps([_as_json(each, now) for each in found], indent=2))
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
    for each in found:
        table.add_row(
            each.tenant,
            each.feature_view,
            f"{each.newest_reading:%Y-%m-%d %H:%M}" if each.newest_reading else "-",
            _age(each.age(now)),
            each.slowest_asset or "-",
            _age(each.slowest_age(now)),
            f"{each.online}/{each.assets}",
        )
    console = plain.console()
    (console if console.is_terminal else plain.console(width=_PLAIN_WIDTH)).print(table)


def _as_json(each: ViewFreshness, now: datetime) -> dict[str, object]:
    ages = {"age_seconds": each.age(now), "slowest_age_seconds": each.slowest_age(now)}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(each).items()
    } | {name: age and age.total_seconds() for name, age in ages.items()}


def _age(age: timedelta | None) -> str:
    return duration(age.total_seconds()) if age is not None else "-"


@app.command("push")
def push_command(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="whose meter it is")],
    asset: Annotated[str, typer.Option("--asset", help="the meter")],
    value: Annotated[float, typer.Option("--value", help="what it read, in the meter's unit")],
    time: Annotated[
        str | None, typer.Option("--time", help="when, as an ISO time, UTC if naive [default: now]")
    ] = None,
    quality: Annotated[str, typer.Option("--quality", help="good, estimated or suspect")] = "good",
) -> None:
    """Store one reading and put it online at once, with the features that follow from it."""
    from ai_hub.features.push import Reading, push
    from ai_hub.features.store import open_store

    at = parse_time(time, "--time") if time else datetime.now(UTC)
    reading = Reading(tenant, asset, at, value, quality)
    done = push(open_store(), reading)
    if done.online_time is None:
        typer.echo("stored; a register has counted nothing before its second reading")
    elif done.online_time > at:
        typer.echo(f"stored; online stays the newer reading of {done.online_time:%Y-%m-%d %H:%M:%SZ}")
    else:
        typer.echo(f"latest_reading is online after {duration(done.online_s)}")
    written = (
        ", ".join(name for name, count in done.features.rows.items() if count)
        or "no view: no row is new enough"
    )
    typer.echo(f"features are online after {duration(done.features_s)}: {written}")

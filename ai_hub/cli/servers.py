"""`ai-hub up | down | status | env | provision | serve | feature-server | demo`: the servers."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich import box
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ai_hub import paths
from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app
from ai_hub.errors import ServiceDownError

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from ai_hub.dev.processes import Handle
    from ai_hub.dev.service import Service
    from ai_hub.dev.status import ServiceStatus
    from ai_hub.settings import Settings


_PLAIN_WIDTH = 160
_STATE_STYLES = {"running": "green", "outside": "cyan", "stopped": "dim", "dead": "bold red"}

Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="just this service (repeatable): timescaledb, redis, s3, mlflow, api"),
]


class _Display:
    """One line a server: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[title]:<12}", "bold", markup=False),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, service: Service, text: str, *, done: bool = False) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{service.title}: {text}", highlight=False)
            return
        if service.name not in self._tasks:
            self._tasks[service.name] = self._progress.add_task(text, total=1, title=service.title)
        self._progress.update(self._tasks[service.name], description=text, completed=1 if done else 0)


@app.command()
def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return once everything works")] = False,
    only: Only = None,
) -> None:
    """Start the embedded servers that no setting replaces, and wait until each works."""
    from ai_hub.dev import control, services
    from ai_hub.dev.mlflow_server import LoginSettings
    from ai_hub.dev.status import status as inspect

    chosen = services.select(only or [])
    console = common.console(stderr=True)
    # A termination or a closed terminal must undo a half-done start as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    started: dict[str, Handle] = {}
    try:
        with _Display(console) as display:
            started = control.up(chosen, display)
        if any(service.name == "timescaledb" for service in chosen):
            _migrate_own(console)
        _print_table(inspect(chosen))
        if LoginSettings().admin_password and any(service.name == "mlflow" for service in chosen):
            console.print(
                "MLflow asks people to log in: `admin` with MLFLOW_AUTH_ADMIN_PASSWORD, "
                "others see `ai-hub people --help`.",
                soft_wrap=True,
            )
        if not detach:
            _stay(started, console)
    except KeyboardInterrupt:
        # Wherever the interruption came; a second one must not leave the servers behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        control.undo(started)
        console.print("Interrupted; what this command had started is stopped.")
        raise typer.Exit(130) from None


@app.command()
def down(
    *,
    purge: Annotated[bool, typer.Option("--purge", help="delete all data of the embedded servers")] = False,
    only: Only = None,
) -> None:
    """Stop the embedded servers."""
    from ai_hub.dev import control, services

    console = common.console(stderr=True)
    stopped = control.down(
        services.select(only or []),
        purge=purge,
        on_wait=lambda: console.print("Waiting for another `ai-hub up` or `down`."),
    )
    names = ", ".join(service.title for service in stopped) or "nothing was running"
    console.print(f"Stopped: {names}." + (" Data deleted." if purge else ""), highlight=False)


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show each server's state; fails when one that should work does not."""
    from ai_hub.dev.services import select
    from ai_hub.dev.status import status as inspect

    rows = inspect(select([]))
    if as_json:
        sys.stdout.write(json.dumps([row.model_dump() for row in rows], indent=2) + "\n")
    else:
        _print_table(rows)
    if not all(row.is_good for row in rows):
        raise typer.Exit(3)


@app.command()
def env(*, as_json: AsJson = False) -> None:
    """Print the settings for a shell: eval "$(ai-hub env)"."""
    variables = common.settings().environment()
    if as_json:
        sys.stdout.write(json.dumps(variables, indent=2) + "\n")
        return
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def _print_table(rows: list[ServiceStatus]) -> None:
    from ai_hub.dev.services import LOGS

    console = common.console()
    if not console.is_terminal:
        console = common.console(width=_PLAIN_WIDTH)
    table = Table(
        box=box.SIMPLE, padding=(0, 1, 0, 0), caption=f"logs are in {_short(paths.state_dir() / LOGS)}"
    )
    for title in ("service", "state", "health", "endpoint", "pid", "log"):
        table.add_column(title, overflow="fold", no_wrap=title in {"service", "state", "endpoint"})
    for row in rows:
        state = Text(row.state, style=_STATE_STYLES[row.state])
        log = row.log and Path(row.log).name
        table.add_row(row.title, state, Text(row.health), row.endpoint, str(row.pid or ""), log)
    console.print(table)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _migrate_own(console: Console) -> None:
    """Bring the embedded database up to date; an outside one is its owner's."""
    from ai_hub.db.migrate import migrate  # psycopg only where needed
    from ai_hub.dev.record import load
    from ai_hub.dev.services import SERVICES, outside_address

    if outside_address(SERVICES["timescaledb"], load()) is None:
        outcome = migrate()
        if outcome.changed:
            console.print("TimescaleDB: migrated", highlight=False)


def _stay(started: dict[str, Handle], console: Console) -> None:
    if not started:
        console.print("Nothing was started by this command, so nothing is kept in the foreground.")
        return
    console.print("Running; Ctrl-C stops what this command started.")
    from ai_hub.dev import control
    from ai_hub.dev.processes import wait_until_dead
    from ai_hub.dev.services import SERVICES
    from ai_hub.dev.status import diagnose

    ended = wait_until_dead(list(started.values()))
    name = next(name for name, handle in started.items() if handle == ended)
    hint = diagnose(name)
    if SERVICES[name] in control.undo(started):
        raise control.StartFailedError(
            f"{SERVICES[name].title} ended, so the others were stopped.", hint=hint
        )
    console.print("Stopped by another command.")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


@app.command()
def provision(*, as_json: AsJson = False) -> None:
    """Create the databases of MLflow and Feast and the bucket of models on your servers. Safe to repeat."""
    from ai_hub.db.provision import provision_databases
    from ai_hub.dev import status

    settings = common.settings()
    status.require("timescaledb", "s3", settings=settings)
    databases = provision_databases(settings)
    _ensure_bucket(settings)
    if as_json:
        summary = {"databases": [asdict(row) for row in databases], "bucket": settings.model_storage_bucket}
        typer.echo(json.dumps(summary))
        return
    for database in databases:
        where = "is on another server and left alone" if database.state == "outside" else database.state
        typer.echo(f"database {database.database} ({database.setting}): {where}")
    typer.echo(f"bucket {settings.model_storage_bucket}: present")


def _ensure_bucket(settings: Settings) -> None:
    from ai_hub import servers
    from ai_hub.servers import NotReadyError

    try:
        servers.ensure_bucket(settings.environment())
    except NotReadyError as error:
        hint = "Check MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MODEL_STORAGE_BUCKET."
        raise ServiceDownError("S3", settings.require("minio_endpoint_url"), str(error), hint=hint) from error


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="address to serve on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="port to serve on")] = 8003,
    workers: Annotated[int, typer.Option("--workers", min=1, help="processes that answer")] = 1,
    export_worker: Annotated[
        bool, typer.Option("--export-worker/--no-export-worker", help="also run an export worker")
    ] = True,
) -> None:
    """Serve features, exports and the model registry over HTTP; the API is described at /docs."""
    from ai_hub.api import server
    from ai_hub.api.server import check_development_mode
    from ai_hub.settings import ServiceSettings

    check_development_mode(ServiceSettings(), host)
    server.serve(host, port, workers=workers, export_worker=export_worker)


@app.command("feature-server")
def feature_server_command(
    *,
    host: Annotated[str, typer.Option("--host", help="address to serve on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="port to serve on")] = 6566,
    workers: Annotated[int, typer.Option("--workers", min=1, help="processes that answer")] = 1,
    registry_ttl: Annotated[
        int, typer.Option("--registry-ttl", min=1, help="seconds between reads of the registry")
    ] = 60,
) -> None:
    """Serve features over HTTP: every path of `feast serve`, online reads several times as fast."""
    from ai_hub.features.store import open_store
    from feast_plugins.feature_server import serve

    serve(open_store(), host, port, workers=workers, registry_ttl_sec=registry_ttl)


@app.command()
def demo(
    weeks: Annotated[
        int | None,
        typer.Option(
            "--weeks", min=16, help="only the newest weeks of the meters [default: two years and more]"
        ),
    ] = None,
) -> None:
    """Run the whole product on sample meters: servers, ingest, features, training, promotion, prediction."""
    from ai_hub.dev.demo.run import run  # reads sample files; other commands never need it

    run(common.console(), weeks=weeks)

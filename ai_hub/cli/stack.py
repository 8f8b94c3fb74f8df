"""`ai-hub up | down | status | env`: the embedded servers."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich import box
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ai_hub import paths
from ai_hub.cli import context, plain
from ai_hub.cli.main import app
from ai_hub.dev import plan, processes, record, services
from ai_hub.dev.control import StartFailedError, undo
from ai_hub.dev.control import down as stop
from ai_hub.dev.control import up as start
from ai_hub.dev.mlflow_server import LoginSettings
from ai_hub.dev.plan import LOGS
from ai_hub.dev.status import ServiceStatus, diagnose
from ai_hub.dev.status import status as inspect

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from ai_hub.dev.processes import Handle
    from ai_hub.dev.service import Service

_PLAIN_WIDTH = 160
_STATE_STYLES = {"running": "green", "outside": "cyan", "stopped": "dim", "dead": "bold red"}

Only = Annotated[
    list[str] | None,
    typer.Option("--only", help=f"just this service (repeatable): {', '.join(services.SERVICES)}"),
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
    chosen = services.select(only or [])
    console = plain.console(stderr=True)
    # A termination or a closed terminal must undo a half-done start as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    started: dict[str, Handle] = {}
    try:
        with _Display(console) as display:
            started = start(chosen, display)
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
        undo(started)
        console.print("Interrupted; what this command had started is stopped.")
        raise typer.Exit(130) from None


@app.command()
def down(
    *,
    purge: Annotated[bool, typer.Option("--purge", help="delete all data of the embedded servers")] = False,
    only: Only = None,
) -> None:
    """Stop the embedded servers."""
    console = plain.console(stderr=True)
    stopped = stop(
        services.select(only or []),
        purge=purge,
        on_wait=lambda: console.print("Waiting for another `ai-hub up` or `down`."),
    )
    names = ", ".join(service.title for service in stopped) or "nothing was running"
    console.print(f"Stopped: {names}." + (" Data deleted." if purge else ""), highlight=False)


@app.command()
def status(
    *, as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False
) -> None:
    """Show each server's state; fails when one that should work does not."""
    rows = inspect(services.select([]))
    if as_json:
        sys.stdout.write(json.dumps([row.model_dump() for row in rows], indent=2) + "\n")
    else:
        _print_table(rows)
    if not all(row.is_good for row in rows):
        raise typer.Exit(3)


@app.command()
def env(*, as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False) -> None:
    """Print the settings for a shell: eval "$(ai-hub env)"."""
    variables = context.settings().environment()
    if as_json:
        sys.stdout.write(json.dumps(variables, indent=2) + "\n")
        return
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def _print_table(rows: list[ServiceStatus]) -> None:
    console = plain.console()
    if not console.is_terminal:
        console = plain.console(width=_PLAIN_WIDTH)
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
    from ai_hub.database.migrate import migrate  # psycopg only where needed

    if plan.outside(services.SERVICES["timescaledb"], record.load()) is None:
        outcome = migrate()
        if outcome.changed:
            console.print("TimescaleDB: migrated", highlight=False)


def _stay(started: dict[str, Handle], console: Console) -> None:
    if not started:
        console.print("Nothing was started by this command, so nothing is kept in the foreground.")
        return
    console.print("Running; Ctrl-C stops what this command started.")
    ended = processes.wait_until_dead(list(started.values()))
    name = next(name for name, handle in started.items() if handle == ended)
    hint = diagnose(name)
    if services.SERVICES[name] in undo(started):
        raise StartFailedError(
            f"{services.SERVICES[name].title} ended, so the others were stopped.", hint=hint
        )
    console.print("Stopped by another command.")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt

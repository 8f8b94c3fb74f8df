# ruff: noqa: E402, F401 - command groups are imported for what they register on `app`
"""Entry point: gathers the command groups and turns our errors into one readable message."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from ai_hub import __version__
from ai_hub.cli import common
from ai_hub.imports import collect_garbage_less_often, skip_type_checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_hub.errors import AiHubError

app = typer.Typer(
    name="ai-hub",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Feature store and model registry of a multi-tenant energy-management suite.",
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    common.settings.cache_clear()
    if version:
        typer.echo(f"ai-hub {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an `AiHubError` becomes a message on stderr and its exit status."""
    # MLflow's clients would report their use, and its thread for that can break the call beside it
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    collect_garbage_less_often()
    skip_type_checks()
    run(app)


def run(command: Callable[[], object]) -> None:
    """Run a command line; failures become a message on stderr and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        # a name from a file or an argument may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read this has enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("AI_HUB_TRACEBACK"):
            raise
        # Imported late: only a failure pays for it.
        from ai_hub.cli.errors import explain

        _report(explain(error))


def _report(error: AiHubError) -> NoReturn:
    console = common.console(stderr=True, soft_wrap=True)
    console.print(Text("Error: ", style="bold red"), end="")
    console.print(error.message, highlight=False)
    if error.hint:
        console.print(error.hint, highlight=False)
    sys.exit(error.exit_code)


# Command groups register themselves on `app`.
from ai_hub.cli import (
    assets,
    backup,
    exports,
    features,
    forecasts,
    gates,
    ingest,
    issuing,
    jobs,
    keys,
    lineage,
    models,
    people,
    predict,
    registry,
    retrain,
    servers,
    tenants,
    training,
)

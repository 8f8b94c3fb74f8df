# ruff: noqa: E402, F401 - command groups are imported for what they register on `app`
"""Entry point: gathers the command groups and turns our errors into one readable message."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer
from rich.text import Text

from ai_hub.cli import plain
from ai_hub.errors import AiHubError
from ai_hub.imports import skip_type_checks

app = typer.Typer(
    name="ai-hub",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Feature store and model registry of a multi-tenant energy-management suite.",
)


def main() -> None:
    """Run the command line; an `AiHubError` becomes a message on stderr and its exit status."""
    # MLflow's clients would report their use, and its thread for that can break the call beside it
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    skip_type_checks()
    try:
        app()
    except AiHubError as error:
        _report(error)
    except Exception as error:
        # Imported late: only a failure pays for looking at the servers.
        from ai_hub.stack.health import translate  # noqa: PLC0415

        if (down := translate(error)) is None:
            raise
        _report(down)


def _report(error: AiHubError) -> NoReturn:
    console = plain.console(stderr=True, soft_wrap=True)
    console.print(Text("Error: ", style="bold red"), end="")
    console.print(error.message, highlight=False)
    if error.hint:
        console.print(error.hint, highlight=False)
    sys.exit(error.exit_code)


# Command groups register themselves on `app`.
from ai_hub.cli import (
    backfill,
    database,
    demo,
    export,
    feature_server,
    features,
    gates,
    ingest,
    keys,
    people,
    provision,
    registry,
    serve,
    stack,
    train,
)

"""Entry point: gathers the command groups and turns our errors into one readable message."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from ai_hub.errors import AiHubError

app = typer.Typer(
    name="ai-hub",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Feature store and model registry of a multi-tenant energy-management suite.",
)


def main() -> None:
    """Run the command line; an `AiHubError` becomes a message on stderr and its exit status."""
    try:
        app()
    except AiHubError as error:
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"[bold red]Error:[/] {error.message}", highlight=False, markup=True)
        if error.hint:
            console.print(error.hint, highlight=False, markup=False)
        sys.exit(error.exit_code)

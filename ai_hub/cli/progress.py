"""The bar of commands that take long."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ai_hub.cli import plain


def bar(*, quiet: bool) -> Progress:
    """What is done, how much of it, and for how long; on a terminal only, and not if `quiet`."""
    console = plain.console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )

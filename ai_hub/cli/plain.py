"""Where commands print."""

from __future__ import annotations

from rich.console import Console


def console(
    *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False, highlight: bool = True
) -> Console:
    """A console that prints text as it is: names that people choose may look like rich's markup or emoji.

    For styles use `style=` and `rich.text.Text`.
    """
    return Console(
        stderr=stderr, width=width, soft_wrap=soft_wrap, highlight=highlight, markup=False, emoji=False
    )

"""What commands share: settings, consoles, a progress bar, times and the option `--json`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ai_hub.errors import BadInputError
from ai_hub.times import assume_utc

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from ai_hub.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
MetricsPort = Annotated[
    int | None, typer.Option("--metrics-port", help="with --follow: serve Prometheus metrics there")
]
MetricsHost = Annotated[str, typer.Option("--metrics-host", help="address they are served on")]
LOOPBACK = "127.0.0.1"


@cache
def settings() -> Settings:
    """The settings, read once in a call of the command line; `main` clears the cache at the start of each.

    Raises:
        ValidationError: a setting is not usable.
    """
    from ai_hub.settings import Settings  # not every command reads settings

    return Settings()


def console(
    *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False, highlight: bool = True
) -> Console:
    """A console that prints text as it is: names that people choose may look like rich's markup or emoji.

    For styles use `style=` and `rich.text.Text`.
    """
    return Console(
        stderr=stderr, width=width, soft_wrap=soft_wrap, highlight=highlight, markup=False, emoji=False
    )


def progress_bar(*, quiet: bool) -> Progress:
    """What is done, how much of it, and for how long; on a terminal only, and not if `quiet`."""
    shown_on = console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=shown_on,
        disable=quiet or not shown_on.is_terminal,
    )


def say(text: str) -> None:
    """One line of a log, with the time."""
    typer.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {text}")


def check_metrics_port(port: int | None, *, follow: bool) -> None:
    """Refuse metrics of a command that ends.

    Raises:
        BadInputError: there is a port, but the command does not follow.
    """
    if port is not None and not follow:
        raise BadInputError(
            "--metrics-port needs --follow.", hint="Without --follow the command ends after one pass."
        )


@contextmanager
def served_metrics(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[None]:
    """Serve the metrics of a follower in this block, if a port is given.

    Raises:
        BadInputError: the port cannot be had.
    """
    if port is None:
        yield
        return
    from ai_hub.features.freshness import served

    with ExitStack() as stack:
        try:
            bound = stack.enter_context(served(registry, host, port))
        except OSError as error:
            raise BadInputError(f"--metrics-port {port}: {error.strerror or error}.") from error
        say(f"metrics on http://{host}:{bound}/metrics")
        yield


def parse_time(text: str, option: str) -> datetime:
    """An ISO 8601 time, in UTC if it names no zone.

    Raises:
        BadInputError: it is none.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(
            f"{option} {text!r} is not a time.", hint="Write 2026-01-31 or 2026-01-31T06:00Z."
        ) from error
    return assume_utc(time)


def duration_text(seconds: float) -> str:
    """Seconds for a reader: `0.12 s`, `4 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "d"), (hours, "h"), (rest if not days else 0, "min")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)

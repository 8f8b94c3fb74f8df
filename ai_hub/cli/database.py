"""`ai-hub migrate` and `ai-hub refresh`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ai_hub.cli import plain
from ai_hub.cli.main import app
from ai_hub.cli.times import parse_time


@app.command()
def migrate(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False
) -> None:
    """Apply SQL migrations, functions and views to TimescaleDB; fit new chunks to the rate of readings."""
    from ai_hub.database.chunks import follow_rate  # psycopg only where needed
    from ai_hub.database.migrate import migrate as apply  # psycopg only where needed

    outcome = apply()
    chunks = follow_rate()
    if as_json:
        intervals = {name: after.total_seconds() for name, _, after in chunks}
        done = {"applied": outcome.applied, "code_applied": outcome.code_applied}
        typer.echo(json.dumps(done | {"chunk_seconds": intervals}))
        return
    for name in outcome.applied:
        typer.echo(f"applied {name}")
    if outcome.code_applied:
        typer.echo("applied functions and views")
    for name, before, after in chunks:
        typer.echo(f"new chunks of {name} hold {after} instead of {before}")
    if not outcome.changed and not chunks:
        typer.echo("already up to date")


@app.command()
def refresh(
    *,
    since: Annotated[
        str | None, typer.Option(help="Recompute everything from this ISO time on (UTC if naive).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Compute features for new, late and corrected readings and weather. Safe to repeat and to kill."""
    from ai_hub.database.refresh import refresh as run  # psycopg only where needed

    start = None if since is None else parse_time(since, "--since")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=plain.console(stderr=True), disable=as_json, transient=True) as bar:
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

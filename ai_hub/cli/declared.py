"""`ai-hub features list` and `ai-hub features backfill`: rows of declared feature views."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import plain, progress
from ai_hub.cli.ingest_options import AsJson
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from feast_plugins.windows.database import Progress

features_app = typer.Typer(no_args_is_help=True, help="Feature views that the feature repository declares.")
app.add_typer(features_app, name="features")


@features_app.command("list")
def features_list(*, as_json: AsJson = False) -> None:
    """Show how many rows of each declared view are stored; the others are computed whenever they are read."""
    from ai_hub.database import connect
    from feast_plugins.windows import database as declared

    with connect(application_name="ai-hub features") as connection:
        declared.require_catalog(connection)
        found = declared.progress(connection)
    _print(found, as_json=as_json)


@features_app.command("backfill")
def features_backfill(
    view: Annotated[str | None, typer.Argument(help="only this declared view")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Store the whole history of declared views. Killed midway, the same command, or a refresh, goes on."""
    from ai_hub.database import connect
    from ai_hub.database.refresh import refresh
    from feast_plugins.windows import database as declared

    with connect(autocommit=True, application_name="ai-hub features") as connection:
        declared.require_catalog(connection)
        names = declared.request_backfill(connection, view)
    with progress.bar(quiet=as_json) as bar:
        aggregates = bar.add_task("aggregates", total=None)
        rows = bar.add_task("features", total=None)
        refresh(
            aggregating=lambda done, total: bar.update(aggregates, completed=done, total=total),
            progress=lambda done, total: bar.update(
                rows, completed=done, total=total, description=f"features, {done:,} rows"
            ),
        )
    with connect(application_name="ai-hub features") as connection:
        found = [each for each in declared.progress(connection) if each.view in names]
    _print(found, as_json=as_json)


def _print(found: list[Progress], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found]))
        return
    if not found:
        typer.echo("No feature view is declared. docs/declared-features.md shows how to add one.")
        return
    table = Table(
        "declared view",
        Column("assets", justify="right"),
        Column("rows", justify="right"),
        Column("stored", justify="right"),
        box=SIMPLE_HEAD,
    )
    for each in found:
        share = f"{each.stored:,} ({each.stored / each.rows:.0%})" if each.rows else "0"
        table.add_row(each.view, f"{each.assets:,}", f"{each.rows:,}", share)
    plain.console().print(table)

# ruff: noqa: PLC0415 - the database client loads only in the commands that need it
"""`ai-hub ingest findings` and `quarantine`: what is odd about stored series, and what was not stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ai_hub.cli import plain
from ai_hub.cli.ingest import ingest_app
from ai_hub.cli.ingest_options import AsJson, Tenant, duration_option
from ai_hub.cli.times import parse_time
from ai_hub.errors import BadInputError
from ai_hub.ingest.enums import Use

CsvFile = Annotated[
    Path | None, typer.Option("--csv", help="write them like a reject file, to correct and ingest")
]


@ingest_app.command("findings")
def findings_command(
    *,
    tenant: Tenant,
    asset: Annotated[str | None, typer.Option("--asset", help="only of this asset")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="only what is still so")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="at most so many")] = 1000,
    as_json: AsJson = False,
) -> None:
    """List gaps, stuck meters and clock changes that ingest found."""
    from ai_hub.database import connect
    from ai_hub.ingest.findings import FindingsRepository
    from ai_hub.ingest.report import describe

    with connect() as connection:
        stored = FindingsRepository(connection, tenant).find(
            asset_id=asset, only_open=only_open, limit=limit + 1
        )
    if len(stored) > limit:
        stored.pop()
        typer.echo(f"There are more than these {limit:,}: name an --asset, or raise --limit.", err=True)
    if as_json:
        typer.echo(json.dumps([item.as_dict() for item in stored]))
        return
    if not stored:
        typer.echo("Nothing was found.")
        return
    table = Table("asset", "kind", "what", "resolved", title=f"Findings of {tenant}")
    for item in stored:
        resolved = item.resolved_at.strftime("%Y-%m-%d") if item.resolved_at else ""
        table.add_row(item.asset_id, item.finding.kind, describe(item.finding), resolved)
    plain.console().print(table)


@ingest_app.command("quality")
def quality_command(
    *,
    tenant: Tenant,
    suspect: Annotated[Use | None, typer.Option("--suspect", help="readings that may be wrong")] = None,
    estimated: Annotated[
        Use | None, typer.Option("--estimated", help="readings made up for missing ones")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show or set whether features use suspect and estimated readings of a tenant."""
    from ai_hub.database import connect
    from ai_hub.ingest import policies

    uses = {"suspect": suspect, "estimated": estimated}
    policy = {quality: use is Use.USE for quality, use in uses.items() if use is not None}
    with connect(autocommit=True) as connection:
        changed = policies.save_quality_policy(connection, tenant, policy) if policy else 0
        policy_now = policies.find_quality_policy(connection, tenant)
    if as_json:
        typer.echo(json.dumps({"in_features": policy_now, "readings_changed": changed}))
        return
    for quality, used in policy_now.items():
        typer.echo(f"{quality}: {'used' if used else 'left out'}")
    if changed:
        typer.echo(f"{changed:,} readings changed; `ai-hub refresh` computes their features.")


@ingest_app.command("quarantine")
def quarantine_command(
    *,
    tenant: Tenant,
    file: Annotated[str | None, typer.Option("--file", help="only rows of files with this name")] = None,
    csv_file: CsvFile = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="forget them (after writing them, with --csv)")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List rejected rows, or export them for correction, or forget them."""
    from ai_hub.database import connect
    from ai_hub.ingest import quarantine

    if as_json and (csv_file or clear):
        raise BadInputError("--json lists the rows; --csv and --clear do not.", hint="Run it twice.")
    with connect(autocommit=True) as connection:
        if csv_file:
            count = quarantine.export(connection, tenant, csv_file, file)
            typer.echo(f"{count:,} rows are in {csv_file}")
        if clear:
            typer.echo(f"{quarantine.clear(connection, tenant, file):,} rows forgotten")
        if csv_file or clear:
            return
        if as_json:
            rows = [row.as_dict() for row in quarantine.find(connection, tenant, file)]
            typer.echo(json.dumps(rows))
            return
        counts = quarantine.summary(connection, tenant, file)
    if not counts:
        typer.echo("No rows are in quarantine.")
        return
    table = Table("file", "reason", "rows", "last", title=f"Quarantined rows of {tenant}")
    for name, reason, count, latest in counts:
        table.add_row(name, reason, f"{count:,}", latest.strftime("%Y-%m-%d %H:%M"))
    plain.console().print(table)


@ingest_app.command("bounds")
def bounds_command(
    *,
    tenant: Tenant,
    earliest: Annotated[
        str | None, typer.Option("--earliest", help="take no reading before this time")
    ] = None,
    ahead: Annotated[
        str | None, typer.Option("--ahead", help="nor one so far ahead of the clock, such as 1d")
    ] = None,
) -> None:
    """Show or change which times of readings are taken."""
    from ai_hub.database import connect
    from ai_hub.ingest import policies

    with connect() as connection:
        if earliest is None and ahead is None:
            bounds = policies.find_bounds(connection, tenant)
        else:
            time = None if earliest is None else parse_time(earliest, "--earliest")
            lead = None if ahead is None else duration_option(ahead, "--ahead")
            bounds = policies.save_bounds(connection, tenant, earliest=time, ahead=lead)
    typer.echo(f"{tenant}: readings from {bounds.earliest.isoformat()} to {bounds.ahead} ahead of the clock")

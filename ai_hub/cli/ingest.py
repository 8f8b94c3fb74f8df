# ruff: noqa: PLC0415 - pandas and pyarrow load only in the commands that need them
"""`ai-hub ingest` and `ai-hub asset`: files into the tables, and the register of assets."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ai_hub.cli import plain
from ai_hub.cli.ingest_options import (
    AsJson,
    Digits,
    File,
    Period,
    ProfileName,
    ReadingOption,
    ReadingOptions,
    RunOptions,
    SourceOptions,
    TableOptions,
    TemperatureOption,
    Tenant,
    TimestampOptions,
    duration_option,
    ingest_options,
    whole_interval,
    with_options,
)
from ai_hub.cli.main import app
from ai_hub.ingest.enums import AssetKind, TemperatureUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ai_hub.ingest.options import Options
    from ai_hub.ingest.pipeline import Preview
    from ai_hub.ingest.report import Report

ingest_app = typer.Typer(
    no_args_is_help=True, help="Bring meter readings and weather from files into TimescaleDB."
)
asset_app = typer.Typer(no_args_is_help=True, help="The register of meters and weather stations.")

app.add_typer(ingest_app, name="ingest")
app.add_typer(asset_app, name="asset")


@ingest_app.command("readings")
@with_options
def ingest_readings_command(
    file: File,
    *,
    tenant: Tenant,
    source: SourceOptions,
    readings: ReadingOptions,
    times: TimestampOptions,
    table: TableOptions,
    period: Period = None,
    run: RunOptions,
) -> None:
    """Ingest meter readings: timestamp, value, and where given asset_id and quality."""
    from ai_hub.ingest.files import ingest_readings, preview_readings

    options = ingest_options(tenant, source, times, readings=readings, table=table, period=period)
    if run.dry_run:
        _show_preview(preview_readings(file, options), as_json=run.as_json)
        return
    with _progress(file, quiet=run.as_json) as on_progress:
        report = ingest_readings(file, options, reject_file=run.reject_file, on_progress=on_progress)
    _show(report, options, run)


@ingest_app.command("weather")
@with_options
def ingest_weather_command(
    file: File,
    *,
    tenant: Tenant,
    source: SourceOptions,
    temperature_unit: TemperatureOption = TemperatureUnit.CELSIUS,
    available_after: Annotated[
        str, typer.Option("--available-after", help="when a row without available_at could first be read")
    ] = "1h",
    profile: ProfileName = None,
    times: TimestampOptions,
    table: TableOptions,
    run: RunOptions,
) -> None:
    """Ingest weather: timestamp, any weather variables, and for forecasts available_at (issue time)."""
    from ai_hub.ingest.files import ingest_weather, preview_weather

    options = ingest_options(tenant, source, times, table=table, profile=profile)
    delay = duration_option(available_after, "--available-after")
    if run.dry_run:
        preview = preview_weather(file, options, temperature_unit=temperature_unit, available_after=delay)
        _show_preview(preview, as_json=run.as_json)
        return
    with _progress(file, quiet=run.as_json) as on_progress:
        report = ingest_weather(
            file,
            options,
            temperature_unit=temperature_unit,
            available_after=delay,
            reject_file=run.reject_file,
            on_progress=on_progress,
        )
    _show(report, options, run)


@ingest_app.command("profiles")
def profiles_command(as_json: AsJson = False) -> None:
    """List the formats that --profile knows."""
    from ai_hub.ingest.options import PROFILES

    if as_json:
        typer.echo(json.dumps({name: profile.summary for name, profile in PROFILES.items()}))
        return
    table = Table("profile", "files", "recognised", title="Profiles")
    for name, profile in PROFILES.items():
        table.add_row(name, profile.summary, "by its beginning" if profile.begins else "")
    plain.console().print(table)


@asset_app.command("add")
def asset_add(
    asset: Annotated[str, typer.Argument(help="id of the meter or weather station", show_default=False)],
    *,
    tenant: Tenant,
    kind: Annotated[AssetKind | None, typer.Option("--kind", help="what it measures")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="unit of its values, such as kWh")] = None,
    reading: ReadingOption = None,
    digits: Digits = None,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="15m", help="that a reading covers, if it does not say so"),
    ] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="such as Europe/London")] = None,
    weather_from: Annotated[
        str | None, typer.Option("--weather-from", help="asset whose weather it uses")
    ] = None,
    latitude: Annotated[float | None, typer.Option("--latitude", help="degrees north")] = None,
    longitude: Annotated[float | None, typer.Option("--longitude", help="degrees east")] = None,
    capacity: Annotated[
        float | None, typer.Option("--capacity", help="largest magnitude of one reading, in its unit")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register an asset, or change what is given of one that is registered."""
    from ai_hub.database import connect
    from ai_hub.ingest import assets

    values = {
        "kind": kind and kind.value,
        "unit": unit,
        "reading": reading and reading.value,
        "register_digits": digits,
        "interval_seconds": interval and round(whole_interval(interval).total_seconds()),
        "timezone": timezone,
        "weather_asset_id": weather_from,
        "latitude": latitude,
        "longitude": longitude,
        "capacity": capacity,
    }
    changes = {name: value for name, value in values.items() if value is not None}
    with connect() as connection:
        stored = assets.save(connection, assets.validate_asset(tenant_id=tenant, asset_id=asset, **changes))
    if as_json:
        typer.echo(json.dumps(stored.model_dump()))
    else:
        parts = [stored.kind, stored.unit or "no unit", stored.timezone]
        parts += [stored.reading.value] if stored.reading else []
        parts += [f"{stored.register_digits} digits"] if stored.register_digits else []
        parts += [f"every {stored.interval_seconds / 60:g} min"] if stored.interval_seconds else []
        typer.echo(f"{tenant}/{asset}: {', '.join(parts)}")


@asset_app.command("list")
def asset_list(tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's assets."""
    from ai_hub.database import connect
    from ai_hub.ingest import assets

    with connect() as connection:
        registered, invalid = assets.find_all(connection, tenant)
    for asset_id, reason in invalid.items():
        typer.echo(f"Asset {asset_id!r} is invalid, correct its row by SQL: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps([asset.model_dump() for asset in registered.values()]))
        return
    table = Table(
        *("asset", "kind", "unit", "reading", "interval", "capacity", "timezone", "weather from"),
        title=f"Assets of {tenant}",
    )
    for asset in registered.values():
        capacity = "" if asset.capacity is None else f"{asset.capacity:g}"
        weather_from = asset.weather_asset_id or "itself"
        interval = f"{asset.interval_seconds / 60:g} min" if asset.interval_seconds else ""
        table.add_row(
            *(asset.asset_id, asset.kind, asset.unit or "", asset.reading or "", interval, capacity),
            *(asset.timezone, weather_from),
        )
    plain.console().print(table)


@contextmanager
def _progress(file: Path, *, quiet: bool) -> Iterator[Callable[[float, Report], None]]:
    """A bar on a terminal; elsewhere nothing, so logs stay readable."""
    console = plain.console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(file.name, total=1.0, rows=0)
        yield lambda fraction, report: bar.update(
            task, completed=fraction, rows=report.accepted + report.rejected
        )


def _show_preview(shown: Preview, *, as_json: bool) -> None:
    """Print a dry run; status 1 where no row would be stored."""
    from ai_hub.ingest.report import preview_lines, preview_row_lines, preview_table

    rows = preview_table(shown.rows)
    if as_json:
        rejected = [{"line": line, "reason": reason, "row": row} for line, reason, row in shown.rejected]
        typer.echo(json.dumps({**shown.report.as_dict(), "rows_read": rows, "rows_rejected": rejected}))
    else:
        for line in preview_lines(shown):
            typer.echo(line)
        for line in preview_row_lines(rows):
            typer.echo(line)
    if not rows:
        sys.exit(1)


def _show(report: Report, options: Options, run: RunOptions) -> None:
    """Print the report; status 1 where no row was usable, or with `--strict` any was not."""
    from ai_hub.ingest.report import report_lines

    if run.as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        for line in report_lines(report, options):
            typer.echo(line)
    if report.rejected and (run.strict or not report.accepted):
        sys.exit(1)


# The group's other commands register themselves.
from ai_hub.cli import quality  # noqa: E402, F401

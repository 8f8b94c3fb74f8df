"""`ai-hub ingest` and `ai-hub backfill`: files into the tables, findings and quarantine."""

from __future__ import annotations

import datetime as dt
import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.ingest_options import (
    Columns,
    File,
    Period,
    ProfileName,
    ReadingOptions,
    RunOptions,
    SourceOptions,
    TableOptions,
    TemperatureOption,
    Tenant,
    TimestampOptions,
    Timezone,
    duration_option,
    ingest_options,
    with_options,
)
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from ai_hub.ingest.options import TemperatureUnit, Use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai_hub.ingest.files import BackfillResult
    from ai_hub.ingest.options import Options
    from ai_hub.ingest.pipeline import Preview
    from ai_hub.ingest.report import Report


ingest_app = typer.Typer(
    no_args_is_help=True,
    help="Bring readings, weather and external series from files into TimescaleDB.",
)

app.add_typer(ingest_app, name="ingest")


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


@ingest_app.command("series")
@with_options
def ingest_series_command(
    file: File,
    *,
    tenant: Tenant,
    series: Annotated[
        str | None, typer.Option("--series", help="its name (default: the file's column series)")
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option("--zone", help="price zone, group, station or asset of every row (default: by column)"),
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="of the values, such as EUR/MWh")] = None,
    available_at: Annotated[
        str | None,
        typer.Option("--available-at", metavar="COLUMN", help="when each value was published"),
    ] = None,
    available_after: Annotated[
        str | None,
        typer.Option(
            "--available-after", help="when a value that does not say it was published (default: 1h)"
        ),
    ] = None,
    day_ahead: Annotated[
        str | None,
        typer.Option(
            "--day-ahead", metavar="HH:MM", help="local time on the day before, when all were published"
        ),
    ] = None,
    timezone: Timezone = None,
    columns: Columns = None,
    profile: ProfileName = None,
    times: TimestampOptions,
    table: TableOptions,
    run: RunOptions,
) -> None:
    """Ingest prices, tariffs, grid load or forecasts of others: timestamp, value, zone and available_at."""
    from dataclasses import replace

    from ai_hub.ingest.files import ingest_series, preview_series

    if available_after is not None and day_ahead is not None:
        raise BadInputError("--available-after and --day-ahead exclude each other.", hint="Give one of them.")
    source = SourceOptions(asset=zone, timezone=timezone, columns=columns)
    options = ingest_options(tenant, source, times, table=table, profile=profile)
    named = {"asset_id" if field == "zone" else field: name for field, name in options.columns.items()}
    if available_at is not None:
        named["available_at"] = available_at
    options = replace(options, columns=named)
    delay = duration_option(available_after or "1h", "--available-after")
    published = None if day_ahead is None else _time_of_day(day_ahead)
    if run.dry_run:
        preview = preview_series(
            file, options, name=series, unit=unit, available_after=delay, day_ahead=published
        )
        _show_preview(preview, as_json=run.as_json)
        return
    with _progress(file, quiet=run.as_json) as on_progress:
        report = ingest_series(
            file,
            options,
            name=series,
            unit=unit,
            available_after=delay,
            day_ahead=published,
            reject_file=run.reject_file,
            on_progress=on_progress,
        )
    _show(report, options, run)


def _time_of_day(text: str) -> dt.time:
    try:
        return dt.datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  # a time of any day
    except ValueError as error:
        raise BadInputError(f"--day-ahead {text!r} is no time of day.", hint="Write 12:45.") from error


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
    common.console().print(table)


@contextmanager
def _progress(file: Path, *, quiet: bool) -> Iterator[Callable[[float, Report], None]]:
    """A bar on a terminal; elsewhere nothing, so logs stay readable."""
    console = common.console(stderr=True)
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


CsvFile = Annotated[
    Path | None, typer.Option("--csv", help="write them like a reject file, to correct and ingest")
]


@ingest_app.command("findings")
def findings_command(
    *,
    tenant: Tenant,
    asset: Annotated[str | None, typer.Option("--asset", help="only of this asset")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="only unresolved ones")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="show at most this many")] = 1000,
    as_json: AsJson = False,
) -> None:
    """List what was found about readings and weather, and features that break their limits."""
    from ai_hub.db import connect
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
        typer.echo("There are no findings.")
        return
    table = Table("asset", "kind", "what", "resolved", title=f"Findings of {tenant}")
    for item in stored:
        resolved = item.resolved_at.strftime("%Y-%m-%d") if item.resolved_at else ""
        table.add_row(item.asset_id, item.finding.kind, describe(item.finding), resolved)
    common.console().print(table)


@ingest_app.command("quality")
def quality_command(
    *,
    tenant: Tenant,
    suspect: Annotated[Use | None, typer.Option("--suspect", help="readings that may be wrong")] = None,
    estimated: Annotated[
        Use | None, typer.Option("--estimated", help="readings made up for missing ones")
    ] = None,
    found: Annotated[
        Use | None, typer.Option("--found", help="readings that an open finding says are probably wrong")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show or set whether features use suspect, estimated and probably wrong readings of a tenant."""
    from ai_hub.db import connect
    from ai_hub.ingest import policies

    uses = {"suspect": suspect, "estimated": estimated, "found": found}
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
    from ai_hub.db import connect
    from ai_hub.ingest import rejects

    if as_json and (csv_file or clear):
        raise BadInputError("--json lists the rows; --csv and --clear do not.", hint="Run it twice.")
    with connect(autocommit=True) as connection:
        if csv_file:
            count = rejects.export_quarantine(connection, tenant, csv_file, file)
            typer.echo(f"{count:,} rows are in {csv_file}")
        if clear:
            typer.echo(f"{rejects.clear_quarantine(connection, tenant, file):,} rows forgotten")
        if csv_file or clear:
            return
        if as_json:
            rows = [row.as_dict() for row in rejects.find_quarantined(connection, tenant, file)]
            typer.echo(json.dumps(rows))
            return
        counts = rejects.summarize_quarantine(connection, tenant, file)
    if not counts:
        typer.echo("No rows are in quarantine.")
        return
    table = Table("file", "reason", "rows", "last", title=f"Quarantined rows of {tenant}")
    for name, reason, count, latest in counts:
        table.add_row(name, reason, f"{count:,}", latest.strftime("%Y-%m-%d %H:%M"))
    common.console().print(table)


@ingest_app.command("bounds")
def bounds_command(
    *,
    tenant: Tenant,
    earliest: Annotated[
        str | None, typer.Option("--earliest", help="reject readings before this time")
    ] = None,
    ahead: Annotated[
        str | None, typer.Option("--ahead", help="reject readings further ahead of the clock, such as 1d")
    ] = None,
) -> None:
    """Show or change which timestamps of readings are accepted."""
    from ai_hub.db import connect
    from ai_hub.ingest import policies

    with connect() as connection:
        if earliest is None and ahead is None:
            bounds = policies.find_bounds(connection, tenant)
        else:
            time = None if earliest is None else parse_time(earliest, "--earliest")
            lead = None if ahead is None else duration_option(ahead, "--ahead")
            bounds = policies.save_bounds(connection, tenant, earliest=time, ahead=lead)
    typer.echo(f"{tenant}: readings from {bounds.earliest.isoformat()} to {bounds.ahead} ahead of the clock")


class _Bars:
    """One bar for the files, one for the aggregates, one for the features."""

    def __init__(self, bar: Progress, sizes: dict[Path, int]) -> None:
        self._bar = bar
        self._sizes = sizes
        self._done = dict.fromkeys(sizes, 0.0)
        self._files = bar.add_task("files", total=max(sum(sizes.values()), 1))
        self._aggregates = bar.add_task("aggregates", total=None)
        self._features = bar.add_task("features", total=None)

    def file(self, path: Path, fraction: float, rows: int) -> None:
        self._done[path] = fraction
        bytes_done = sum(size * self._done[name] for name, size in self._sizes.items())
        self._bar.update(self._files, completed=bytes_done, description=f"{path.name}, {rows:,} rows")

    def aggregates(self, done: int, total: int) -> None:
        self._bar.update(self._aggregates, completed=done, total=total)

    def features(self, done: int, total: int) -> None:
        self._bar.update(self._features, completed=done, total=total, description=f"features, {done:,} rows")


@app.command("backfill")
@with_options
def backfill_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="readings: .csv, .csv.gz or .parquet", show_default=False)
    ] = None,
    *,
    tenant: Tenant,
    weather: Annotated[
        list[Path] | None, typer.Option("--weather", help="a file of weather; may be repeated")
    ] = None,
    source: SourceOptions,
    readings: ReadingOptions,
    times: TimestampOptions,
    temperature_unit: TemperatureOption = TemperatureUnit.CELSIUS,
    as_json: AsJson = False,
) -> None:
    """Ingest a history of files and compute all its features. After a kill, the same command resumes."""
    from ai_hub.ingest.files import backfill
    from ai_hub.ingest.report import report_lines

    options = ingest_options(tenant, source, times, readings=readings)
    paths = [*(weather or []), *(files or [])]
    if not paths:
        raise BadInputError(
            "There is no file to bring in.", hint="Name files of readings, or --weather FILE."
        )
    began = time.monotonic()
    with common.progress_bar(quiet=as_json) as bar:
        sizes = {path: path.stat().st_size if path.is_file() else 0 for path in paths}
        result = backfill(
            files or [], weather or [], options, _Bars(bar, sizes), temperature_unit=temperature_unit
        )
    summary = _summary(result, time.monotonic() - began)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for name in result.skipped:
        typer.echo(f"{name}: finished earlier, skipped")
    for name, report in result.reports.items():
        typer.echo("\n  ".join([f"{name}:", *report_lines(report, options)]))
    typer.echo(
        f"{summary['feature_rows']:,} feature rows computed, {summary['seconds']:.0f} s in all,"
        f" {summary['peak_memory_mb']:.0f} MB at most"
    )


def _summary(result: BackfillResult, seconds: float) -> dict[str, object]:
    refreshed = result.refreshed
    return {
        "files": {name: report.as_dict() for name, report in result.reports.items()},
        "skipped": result.skipped,
        "feature_rows": refreshed.rows if refreshed else 0,
        "feature_rows_changed": refreshed.changed if refreshed else 0,
        "seconds": round(seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }

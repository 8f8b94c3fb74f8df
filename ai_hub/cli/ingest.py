# ruff: noqa: PLC0415 - pandas and pyarrow load only in the commands that need them
"""`ai-hub ingest` and `ai-hub asset`: files into the tables, and the register of assets."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ai_hub.cli import plain
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from ai_hub.ingest.enums import (
    Ambiguous,
    AssetKind,
    DateOrder,
    DecimalMark,
    Epoch,
    Nonexistent,
    Reading,
    Stamps,
    TemperatureUnit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from ai_hub.ingest.options import FileFormat, Options
    from ai_hub.ingest.pipeline import Preview
    from ai_hub.ingest.report import Report

ingest_app = typer.Typer(
    no_args_is_help=True, help="Bring meter readings and weather from files into TimescaleDB."
)
asset_app = typer.Typer(no_args_is_help=True, help="The register of meters and weather stations.")

app.add_typer(ingest_app, name="ingest")
app.add_typer(asset_app, name="asset")

File = Annotated[
    Path,
    typer.Argument(help=".csv, .txt, .xml (also .gz), .parquet, .xlsx, .xls or .ods", show_default=False),
]
Tenant = Annotated[str, typer.Option("--tenant", help="whose data it is")]
AssetId = Annotated[
    str | None, typer.Option("--asset", help="asset of every row (default: the file's asset_id column)")
]
Timezone = Annotated[
    str | None, typer.Option("--timezone", help="zone of timestamps without an offset (default: the asset's)")
]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="FIELD=COLUMN,…", help="columns whose names do not say it")
]
TimestampForm = Annotated[
    str | None,
    typer.Option(
        "--timestamp-format", metavar="STRPTIME", help="such as '%d.%m.%Y %H:%M' (default: recognised)"
    ),
]
EpochUnit = Annotated[
    Epoch | None,
    typer.Option("--epoch", help="timestamps are numbers that count this since 1970 (excel: days)"),
]
AmbiguousPolicy = Annotated[
    Ambiguous, typer.Option("--ambiguous", help="a local time that occurred twice when clocks went back")
]
NonexistentPolicy = Annotated[
    Nonexistent,
    typer.Option("--nonexistent", help="a local time that never occurred when clocks went forward"),
]
RejectPath = Annotated[
    Path | None, typer.Option("--reject-file", help="where rejected rows go (default: ./FILE.rejected.csv)")
]
Unit = Annotated[
    str | None,
    typer.Option("--unit", help="unit of the values, such as kWh or kW; converted to the asset's"),
]
ReadingOption = Annotated[
    Reading | None,
    typer.Option(
        "--reading",
        help="energy per interval, mean power, or a register that counts on (default: by the unit)",
    ),
]
Digits = Annotated[
    int | None,
    typer.Option(
        "--digits", min=1, max=15, help="whole digits of a register, after which it begins at 0 again"
    ),
]
Interval = Annotated[
    str | None,
    typer.Option(
        "--interval", metavar="15m", help="that a reading covers (default: the asset's, or told by the file)"
    ),
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="format of the file; `ai-hub ingest profiles` lists them")
]
StampsOption = Annotated[
    Stamps | None, typer.Option("--stamps", help="which end of its interval a timestamp is (default: start)")
]
QualityMap = Annotated[
    str | None,
    typer.Option("--quality-map", metavar="FLAG=QUALITY,…", help="such as A=good,E52=estimated,W=suspect"),
]
Decimal = Annotated[
    DecimalMark | None, typer.Option("--decimal", help="decimal mark (default: told by the file)")
]
Thousands = Annotated[
    str | None, typer.Option("--thousands", metavar="MARK", help="what separates groups of three digits")
]
DateForm = Annotated[
    DateOrder | None, typer.Option("--date-format", help="which part of a date such as 01/02/2026 is first")
]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="such as cp1252 (default: Unicode, else Windows-1252)")
]
Delimiter = Annotated[str | None, typer.Option("--delimiter", metavar="CHAR", help="between fields")]
Header = Annotated[
    int | None,
    typer.Option("--header", metavar="LINE", min=0, help="line of the column names; 0: there is none"),
]
SkipLines = Annotated[
    int | None, typer.Option("--skip-lines", metavar="N", min=0, help="lines before the column names")
]
Where = Annotated[
    str | None, typer.Option("--where", metavar="COLUMN=TEXT,…", help="only rows that have these texts")
]
NoValue = Annotated[
    str | None, typer.Option("--no-value", metavar="TEXT,…", help="cells that say there is no value")
]
Sheet = Annotated[str | None, typer.Option("--sheet", help="of an Excel file (default: the first)")]
Period = Annotated[
    str | None, typer.Option("--period", metavar="30m", help="length of the numbered periods of a day")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="show the first rows as understood and what is rejected; write nothing"),
]
Strict = Annotated[bool, typer.Option("--strict", help="exit with status 1 if any row is rejected")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@ingest_app.command("readings")
def ingest_readings_command(
    file: File,
    *,
    tenant: Tenant,
    asset: AssetId = None,
    timezone: Timezone = None,
    columns: Columns = None,
    unit: Unit = None,
    reading: ReadingOption = None,
    digits: Digits = None,
    interval: Interval = None,
    profile: ProfileName = None,
    stamps: StampsOption = None,
    quality_map: QualityMap = None,
    timestamp_format: TimestampForm = None,
    epoch: EpochUnit = None,
    ambiguous: AmbiguousPolicy = Ambiguous.INFER,
    nonexistent: NonexistentPolicy = Nonexistent.REJECT,
    decimal: Decimal = None,
    thousands: Thousands = None,
    date_format: DateForm = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    header: Header = None,
    skip_lines: SkipLines = None,
    where: Where = None,
    no_value: NoValue = None,
    sheet: Sheet = None,
    period: Period = None,
    reject_file: RejectPath = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Ingest meter readings: timestamp, value, and where given asset_id and quality."""
    from ai_hub.ingest.files import ingest_readings, preview_readings

    options = ingest_options(
        tenant=tenant,
        asset=asset,
        timezone=timezone,
        columns=columns,
        timestamp_format=timestamp_format,
        epoch=epoch,
        ambiguous=ambiguous,
        nonexistent=nonexistent,
        unit=unit,
        reading=reading,
        digits=digits,
        interval=interval,
        quality_map=quality_map,
        profile=profile,
        date_format=date_format,
        form=file_format(
            decimal=decimal,
            thousands=thousands,
            encoding=encoding,
            delimiter=delimiter,
            header=header,
            skip_lines=skip_lines,
            where=where,
            no_value=no_value,
            sheet=sheet,
            stamps=stamps,
            period=period,
        ),
    )
    if dry_run:
        _show_preview(preview_readings(file, options), as_json=as_json)
        return
    with _progress(file, quiet=as_json) as on_progress:
        report = ingest_readings(file, options, reject_file=reject_file, on_progress=on_progress)
    _show(report, options, strict=strict, as_json=as_json)


@ingest_app.command("weather")
def ingest_weather_command(
    file: File,
    *,
    tenant: Tenant,
    asset: AssetId = None,
    timezone: Timezone = None,
    columns: Columns = None,
    temperature_unit: Annotated[
        TemperatureUnit, typer.Option("--temperature-unit", help="unit of temperatures; °F is converted")
    ] = TemperatureUnit.CELSIUS,
    available_after: Annotated[
        str, typer.Option("--available-after", help="when a row without available_at could first be read")
    ] = "1h",
    profile: ProfileName = None,
    timestamp_format: TimestampForm = None,
    epoch: EpochUnit = None,
    ambiguous: AmbiguousPolicy = Ambiguous.INFER,
    nonexistent: NonexistentPolicy = Nonexistent.REJECT,
    decimal: Decimal = None,
    thousands: Thousands = None,
    date_format: DateForm = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    header: Header = None,
    skip_lines: SkipLines = None,
    where: Where = None,
    no_value: NoValue = None,
    sheet: Sheet = None,
    reject_file: RejectPath = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Ingest weather: timestamp, any weather variables, and for forecasts available_at (issue time)."""
    from ai_hub.ingest.files import ingest_weather, preview_weather

    options = ingest_options(
        tenant=tenant,
        asset=asset,
        timezone=timezone,
        columns=columns,
        timestamp_format=timestamp_format,
        epoch=epoch,
        ambiguous=ambiguous,
        nonexistent=nonexistent,
        profile=profile,
        date_format=date_format,
        form=file_format(
            decimal=decimal,
            thousands=thousands,
            encoding=encoding,
            delimiter=delimiter,
            header=header,
            skip_lines=skip_lines,
            where=where,
            no_value=no_value,
            sheet=sheet,
        ),
    )
    if dry_run:
        shown = preview_weather(
            file,
            options,
            temperature_unit=temperature_unit,
            available_after=duration_option(available_after, "--available-after"),
        )
        _show_preview(shown, as_json=as_json)
        return
    with _progress(file, quiet=as_json) as on_progress:
        report = ingest_weather(
            file,
            options,
            temperature_unit=temperature_unit,
            available_after=duration_option(available_after, "--available-after"),
            reject_file=reject_file,
            on_progress=on_progress,
        )
    _show(report, options, strict=strict, as_json=as_json)


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
        stored = assets.put(connection, assets.validate_asset(tenant_id=tenant, asset_id=asset, **changes))
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
        registered = list(assets.find(connection, tenant).values())
    if as_json:
        typer.echo(json.dumps([asset.model_dump() for asset in registered]))
        return
    table = Table(
        *("asset", "kind", "unit", "reading", "interval", "capacity", "timezone", "weather from"),
        title=f"Assets of {tenant}",
    )
    for asset in registered:
        capacity = "" if asset.capacity is None else f"{asset.capacity:g}"
        weather_from = asset.weather_asset_id or "itself"
        interval = f"{asset.interval_seconds / 60:g} min" if asset.interval_seconds else ""
        table.add_row(
            *(asset.asset_id, asset.kind, asset.unit or "", asset.reading or "", interval, capacity),
            *(asset.timezone, weather_from),
        )
    plain.console().print(table)


def ingest_options(
    *,
    tenant: str,
    asset: str | None,
    timezone: str | None,
    columns: str | None,
    timestamp_format: str | None,
    epoch: Epoch | None,
    ambiguous: Ambiguous,
    nonexistent: Nonexistent,
    unit: str | None = None,
    reading: Reading | None = None,
    digits: int | None = None,
    interval: str | None = None,
    quality_map: str | None = None,
    profile: str | None = None,
    date_format: DateOrder | None = None,
    form: FileFormat | None = None,
) -> Options:
    """What the options say of a file.

    Raises:
        BadInputError: they contradict each other.
    """
    from ai_hub.ingest.columns import parse_mapping
    from ai_hub.ingest.options import FileFormat, Options, TimestampFormat

    if timestamp_format and epoch:
        raise BadInputError("--timestamp-format and --epoch exclude each other.", hint="Give one of them.")
    return Options(
        tenant=tenant,
        asset=asset,
        timezone=timezone,
        columns=parse_mapping(columns),
        unit=unit,
        reading=reading,
        digits=digits,
        interval=None if interval is None else whole_interval(interval),
        timestamp_format=TimestampFormat(timestamp_format, epoch, date_format),
        quality_map=qualities(quality_map),
        profile=profile,
        form=form or FileFormat(),
        ambiguous=ambiguous,
        nonexistent=nonexistent,
    )


def qualities(text: str | None) -> dict[str, str]:
    """Quality of each flag of a file, from `--quality-map`.

    Raises:
        BadInputError: not pairs, or no such quality.
    """
    from ai_hub.ingest.columns import parse_mapping
    from ai_hub.ingest.validation import QUALITIES

    mapping = parse_mapping(text, "--quality-map")
    for flag, meaning in mapping.items():
        if meaning not in QUALITIES:
            raise BadInputError(
                f"--quality-map has {flag}={meaning}, but {meaning!r} is no quality.",
                hint=f"Qualities: {', '.join(QUALITIES)}.",
            )
    return mapping


def file_format(
    *,
    decimal: DecimalMark | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: int | None = None,
    skip_lines: int | None = None,
    where: str | None = None,
    no_value: str | None = None,
    sheet: str | None = None,
    stamps: Stamps | None = None,
    period: str | None = None,
) -> FileFormat:
    """What the options say of how a file is written.

    Raises:
        BadInputError: they contradict each other, or one is not usable.
    """
    import codecs

    from ai_hub.ingest.columns import parse_mapping
    from ai_hub.ingest.options import NO_VALUE, FileFormat

    if header is not None and skip_lines is not None:
        raise BadInputError("--header and --skip-lines exclude each other.", hint="Give one of them.")
    if decimal is not None and thousands == decimal:
        raise BadInputError(f"--decimal and --thousands are both {thousands!r}.")
    if delimiter is not None and len(delimiter := delimiter.replace("\\t", "\t")) != 1:
        raise BadInputError("--delimiter is not one character.", hint="Write ';' or '\\t'.")
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError as error:
        raise BadInputError(
            f"{encoding!r} is no encoding.", hint="Write cp1252, latin-1, utf-16 …."
        ) from error
    return FileFormat(
        encoding=encoding,
        delimiter=delimiter,
        header=header if skip_lines is None else skip_lines + 1,
        decimal=decimal and decimal.value,
        thousands=thousands,
        no_value=(*NO_VALUE, *(text.strip() for text in no_value.split(","))) if no_value else NO_VALUE,
        where=parse_mapping(where, "--where"),
        sheet=sheet,
        stamps=stamps,
        period=None if period is None else whole_interval(period, "--period"),
    )


def whole_interval(text: str, option: str = "--interval") -> timedelta:
    """The interval of a reading.

    Raises:
        BadInputError: not a positive number of whole seconds.
    """
    duration = duration_option(text, option)
    if duration.total_seconds() < 1 or duration.microseconds:
        raise BadInputError(
            f"{option} {text} is not a positive number of whole seconds.", hint="Write 15m, 30m or 1h."
        )
    return duration


def duration_option(text: str, option: str) -> timedelta:
    """A duration as pandas reads it.

    Raises:
        BadInputError: it is none, or negative.
    """
    import pandas as pd

    try:
        duration = pd.Timedelta(text)
    except ValueError as error:
        raise BadInputError(f"{text!r} is not a duration.", hint="Write 30min, 1h or 2d.") from error
    if not duration >= pd.Timedelta(0):
        raise BadInputError(f"{option} is negative.", hint="Write 0h or more.")
    return duration.to_pytimedelta()


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


def _show(report: Report, options: Options, *, strict: bool, as_json: bool) -> None:
    """Print the report; status 1 where no row was usable, or with `strict` any was not."""
    from ai_hub.ingest.report import report_lines

    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        for line in report_lines(report, options):
            typer.echo(line)
    if report.rejected and (strict or not report.accepted):
        sys.exit(1)


# The group's other commands register themselves.
from ai_hub.cli import quality  # noqa: E402, F401

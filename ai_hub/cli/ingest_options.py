"""Options of the commands that read files, declared once for all of them."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ai_hub.cli.common import AsJson
from ai_hub.errors import BadInputError
from ai_hub.ingest.options import (
    Ambiguous,
    DateOrder,
    DecimalMark,
    Epoch,
    Nonexistent,
    Reading,
    Stamps,
    TemperatureUnit,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from ai_hub.ingest.options import FileFormat, Options

File = Annotated[
    Path,
    typer.Argument(help=".csv, .txt, .xml (also .gz), .parquet, .xlsx, .xls or .ods", show_default=False),
]
Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the data")]
AssetId = Annotated[
    str | None, typer.Option("--asset", help="asset of every row (default: the file's asset_id column)")
]
Timezone = Annotated[
    str | None, typer.Option("--timezone", help="zone of timestamps without an offset (default: the asset's)")
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="FIELD=COLUMN,…", help="columns that are not recognised by name"),
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
        "--interval", metavar="15m", help="that a reading covers (default: the asset's, or detected)"
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
Decimal = Annotated[DecimalMark | None, typer.Option("--decimal", help="decimal mark (default: detected)")]
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
TemperatureOption = Annotated[
    TemperatureUnit, typer.Option("--temperature-unit", help="unit of temperatures; °F is converted")
]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Whose rows a file has, and in which columns."""

    asset: AssetId = None
    timezone: Timezone = None
    columns: Columns = None


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What the readings of a file are."""

    unit: Unit = None
    reading: ReadingOption = None
    digits: Digits = None
    interval: Interval = None
    profile: ProfileName = None
    stamps: StampsOption = None
    quality_map: QualityMap = None


@dataclass(frozen=True, kw_only=True)
class TimestampOptions:
    """How a file writes its timestamps, and what local times at clock changes mean."""

    timestamp_format: TimestampForm = None
    epoch: EpochUnit = None
    ambiguous: AmbiguousPolicy = Ambiguous.INFER
    nonexistent: NonexistentPolicy = Nonexistent.REJECT


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a file writes its table."""

    decimal: Decimal = None
    thousands: Thousands = None
    date_format: DateForm = None
    encoding: Encoding = None
    delimiter: Delimiter = None
    header: Header = None
    skip_lines: SkipLines = None
    where: Where = None
    no_value: NoValue = None
    sheet: Sheet = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run writes and prints."""

    reject_file: RejectPath = None
    dry_run: DryRun = False
    strict: Strict = False
    as_json: AsJson = False


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make every field of a command's dataclass parameters an option of its own, in their place."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += _parameters(groups[name]) if name in groups else [parameter]

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters(group: Any) -> list[inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(group)
    ]


def ingest_options(
    tenant: str,
    source: SourceOptions,
    times: TimestampOptions,
    *,
    readings: ReadingOptions | None = None,
    table: TableOptions | None = None,
    profile: str | None = None,
    period: str | None = None,
) -> Options:
    """What the options of a command say of a file.

    Raises:
        BadInputError: they contradict each other, or one is not usable.
    """
    from ai_hub.ingest.columns import parse_mapping
    from ai_hub.ingest.options import Options, TimestampFormat

    readings, table = readings or ReadingOptions(), table or TableOptions()
    form = _file_format(table, readings.stamps, period)
    if times.timestamp_format and times.epoch:
        raise BadInputError("--timestamp-format and --epoch exclude each other.", hint="Give one of them.")
    return Options(
        tenant=tenant,
        asset=source.asset,
        timezone=source.timezone,
        columns=parse_mapping(source.columns),
        unit=readings.unit,
        reading=readings.reading,
        digits=readings.digits,
        interval=None if readings.interval is None else whole_interval(readings.interval),
        timestamp_format=TimestampFormat(times.timestamp_format, times.epoch, table.date_format),
        quality_map=_qualities(readings.quality_map),
        profile=profile or readings.profile,
        form=form,
        ambiguous=times.ambiguous,
        nonexistent=times.nonexistent,
    )


def _qualities(text: str | None) -> dict[str, str]:
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


def _file_format(table: TableOptions, stamps: Stamps | None, period: str | None) -> FileFormat:
    """The part of the options that says how a file is written."""
    import codecs

    from ai_hub.ingest.columns import parse_mapping
    from ai_hub.ingest.options import NO_VALUE, FileFormat

    if table.header is not None and table.skip_lines is not None:
        raise BadInputError("--header and --skip-lines exclude each other.", hint="Give one of them.")
    if table.decimal is not None and table.thousands == table.decimal:
        raise BadInputError(f"--decimal and --thousands are both {table.thousands!r}.")
    delimiter = table.delimiter and table.delimiter.replace("\\t", "\t")
    if delimiter is not None and len(delimiter) != 1:
        raise BadInputError("--delimiter is not one character.", hint="Write ';' or '\\t'.")
    try:
        codecs.lookup(table.encoding or "utf-8")
    except LookupError as error:
        raise BadInputError(
            f"{table.encoding!r} is no encoding.", hint="Write cp1252, latin-1, utf-16 …."
        ) from error
    return FileFormat(
        encoding=table.encoding,
        delimiter=delimiter,
        header=table.header if table.skip_lines is None else table.skip_lines + 1,
        decimal=table.decimal and table.decimal.value,
        thousands=table.thousands,
        no_value=(*NO_VALUE, *(text.strip() for text in table.no_value.split(",")))
        if table.no_value
        else NO_VALUE,
        where=parse_mapping(table.where, "--where"),
        sheet=table.sheet,
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

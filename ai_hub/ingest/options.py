"""Options of an ingest, their enumerations, and the profiles of trade formats. Quick to import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from ai_hub.errors import BadInputError

UNKNOWN = "unknown"


class AssetKind(StrEnum):
    """What an asset measures; decides the rules its readings must meet."""

    ELECTRICITY = "electricity"
    GAS = "gas"
    HEAT = "heat"
    COOLING = "cooling"
    WATER = "water"
    SOLAR = "solar"
    WIND = "wind"
    WEATHER = "weather"
    UNKNOWN = UNKNOWN


class Reading(StrEnum):
    """What a reading of an asset is."""

    ENERGY = "energy"
    POWER = "power"
    #: The counter of a meter, which only rises.
    REGISTER = "register"


class Stamps(StrEnum):
    """Which end of its interval a reading's timestamp is."""

    START = "start"
    END = "end"


class Use(StrEnum):
    """Whether features use readings of a given quality."""

    USE = "use"
    LEAVE_OUT = "leave-out"


class Ambiguous(StrEnum):
    """How to read a local time that occurred twice."""

    INFER = "infer"
    EARLIEST = "earliest"
    LATEST = "latest"
    REJECT = "reject"


class Epoch(StrEnum):
    """Unit of a number that counts since 1970."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"
    #: Days since 30 December 1899, in local time.
    EXCEL = "excel"


class TemperatureUnit(StrEnum):
    """Unit of a file's temperatures; the table has °C."""

    CELSIUS = "C"
    FAHRENHEIT = "F"


class Nonexistent(StrEnum):
    """How to read a local time that never occurred."""

    REJECT = "reject"
    SHIFT_FORWARD = "shift-forward"


class FindingKind(StrEnum):
    """Kind of a finding."""

    GAP = "gap"
    STUCK = "stuck"
    SKIPPED_HOUR = "skipped_hour"
    REPEATED_HOUR = "repeated_hour"
    #: Two readings of a register whose difference is not an amount.
    REGISTER_FAULT = "register_fault"
    #: Two readings of a register that are too far apart.
    REGISTER_GAP = "register_gap"
    LOOKS_LIKE_REGISTER = "looks_like_register"
    UNKNOWN_INTERVAL = "unknown_interval"
    #: Values of a feature outside of its limits.
    FEATURE_RANGE = "feature_range"
    #: A larger share of a feature's rows without a value than its limits allow.
    FEATURE_NULLS = "feature_nulls"
    #: A feature whose newest value is older than its limits allow.
    FEATURE_STALE = "feature_stale"
    #: A feature that was served with other values than history has.
    FEATURE_SKEW = "feature_skew"
    #: Suspects: readings that are probably wrong.
    ERROR_CODE = "error_code"
    COPIED = "copied_days"
    UNIT_JUMP = "unit_jump"
    CLOCK_SHIFT = "clock_shift"
    MIDNIGHT_SUN = "midnight_sun"
    NEGATIVE = "negative_consumption"
    RAMP = "implausible_ramp"
    FROZEN_WEATHER = "frozen_weather"


class DateOrder(StrEnum):
    """Order of the parts of a date such as 01/02/2026."""

    DAY = "dmy"
    MONTH = "mdy"
    YEAR = "ymd"


class DecimalMark(StrEnum):
    """Decimal mark of a number."""

    POINT = "."
    COMMA = ","


#: Cells without a value, in upper or lower case. Empty cells are missing values only where a profile says so.
NO_VALUE = ("n/a", "n/e", "-", "--")


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """Format of a file; None is detected."""

    encoding: str | None = None
    delimiter: str | None = None
    #: Line of the header, counted from 1; 0 where there is none and columns are called 1, 2, ….
    header: int | None = None
    #: `.` or `,`.
    decimal: str | None = None
    #: Thousands separator.
    thousands: str | None = None
    no_value: tuple[str, ...] = NO_VALUE
    #: Filter of rows: text by column.
    where: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None
    #: Which end of its interval a timestamp is.
    stamps: Stamps | None = None
    #: Length of the numbered periods of a day, in a column or as columns of a wide file.
    period: timedelta | None = None


@dataclass(frozen=True)
class TimestampFormat:
    """Format of a file's timestamps; by default ISO 8601 or a usual date format."""

    strptime: str | None = None
    epoch: Epoch | None = None
    #: Order of dates with `/` or `-` that do not begin with the year.
    order: DateOrder | None = None
    #: Offset of timestamps without one, such as +01:00; by default they are local times.
    offset: str | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a caller."""

    tenant: str
    #: Asset of every row; by default the file has a column for it.
    asset: str | None = None
    #: IANA time zone of local timestamps; by default the asset's own.
    timezone: str | None = None
    #: Column by field, where its name is not recognised.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: Unit of the values, where no column has it; values are converted to the asset's unit.
    unit: str | None = None
    #: Energy per interval, mean power or a register; by default the asset's.
    reading: Reading | None = None
    #: Interval that every reading covers.
    interval: timedelta | None = None
    #: Whole digits of registers.
    digits: int | None = None
    stamps: Stamps = Stamps.START
    #: Quality (good, estimated or suspect) by flag of the file; other flags stay as they are.
    quality_map: Mapping[str, str] = field(default_factory=dict)
    timestamp_format: TimestampFormat = field(default_factory=TimestampFormat)
    #: Name of one of `PROFILES`; by default detected.
    profile: str | None = None
    #: Format of the file.
    form: FileFormat = field(default_factory=FileFormat)
    ambiguous: Ambiguous = Ambiguous.INFER
    nonexistent: Nonexistent = Nonexistent.REJECT


_EMPTY = (*NO_VALUE, "")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Options of every file of a trade format."""

    summary: str
    #: `table`, or a format that is not a table.
    reader: str = "table"
    form: FileFormat = field(default_factory=FileFormat)
    #: Regular expression of the beginning of its text files, and of no others.
    begins: str | None = None
    timezone: str | None = None
    unit: str | None = None
    order: DateOrder | None = None
    quality_map: Mapping[str, str] = field(default_factory=dict)
    #: Further column names by field.
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _methods(letters: str) -> dict[str, str]:
    """NEM12 quality flags with their method of substitution, such as S14."""
    return {f"{letter}{method}": "estimated" for letter in letters for method in ("", *range(10, 100))}


PROFILES: Mapping[str, Profile] = {
    "german-load-profile": Profile(
        summary="Lastgang: decimal comma, dd.mm.yyyy, stamps at the end of the interval",
        form=FileFormat(decimal=",", thousands=".", no_value=_EMPTY, stamps=Stamps.END),
        order=DateOrder.DAY,
        columns={"quality": ("status", "messwertstatus", "kennung")},
        quality_map={"W": "good", "E": "estimated", "V": "estimated", "G": "suspect", "F": "suspect"},
    ),
    "smard": Profile(
        summary="SMARD of Bundesnetzagentur: from and to in columns, decimal comma",
        form=FileFormat(decimal=",", thousands=".", no_value=_EMPTY),
        timezone="Europe/Berlin",
        order=DateOrder.DAY,
    ),
    "entsoe": Profile(
        summary="ENTSO-E Transparency Platform: intervals as `from - to`, zone and unit in the header",
        form=FileFormat(no_value=_EMPTY),
        order=DateOrder.DAY,
    ),
    "nem12": Profile(
        summary="NEM12 of Australia's market: records 200, 300 and 400, market time, quality by interval",
        reader="nem12",
        form=FileFormat(no_value=_EMPTY),
        begins=r"\s*\"?100\"?,\"?NEM12",
        quality_map={"A": "good", "N": "suspect", **_methods("EFS")},
    ),
    "green-button": Profile(
        summary="Green Button XML (ESPI): unit, power of ten and quality from the file",
        reader="green-button",
        begins=r"(?s)\s*<.*http://naesb\.org/espi",
        quality_map={
            **dict.fromkeys(("0", "14", "17", "18", "19"), "good"),
            **dict.fromkeys(("7", "8", "9", "11", "12", "13", "15", "16"), "estimated"),
            "10": "suspect",
        },
    ),
    "green-button-csv": Profile(
        summary="Green Button CSV of US utilities: START TIME and END TIME, the last minute included",
        form=FileFormat(no_value=_EMPTY),
    ),
    "open-meteo": Profile(
        summary="Open-Meteo CSV: offset from the lines before the header, units in the header",
        begins=r"latitude,longitude,(?:[a-z_]+,)*utc_offset_seconds",
    ),
    "datadis": Profile(
        summary="Datadis of Spain: fecha and hora, 24:00, stamps at the end of the hour, Real or Estimada",
        form=FileFormat(no_value=_EMPTY, stamps=Stamps.END),
        timezone="Europe/Madrid",
        columns={"quality": ("metodoobtencion", "metodo obtencion", "método obtención")},
        quality_map={"Real": "good", "Estimada": "estimated"},
    ),
    "enedis": Profile(
        summary="Enedis of France (Linky): Horodate and Valeur, mean power in W, stamps at the end",
        form=FileFormat(no_value=_EMPTY, stamps=Stamps.END),
        timezone="Europe/Paris",
        unit="W",
    ),
    "uk-settlement": Profile(
        summary="Great Britain, half-hourly: settlement date and period 1 to 46, 48 or 50, long or wide",
        form=FileFormat(period=timedelta(minutes=30), no_value=_EMPTY),
        timezone="Europe/London",
        order=DateOrder.DAY,
        quality_map={"A": "good", "E": "estimated"},
    ),
}


def detect_profile(options: Options, beginning: str) -> tuple[str | None, bool]:
    """Name of a file's profile, and whether it was detected by the file's beginning.

    Raises:
        BadInputError: the profile of the options does not exist.
    """
    if options.profile is not None:
        if options.profile not in PROFILES:
            raise BadInputError(
                f"There is no profile {options.profile!r}.",
                hint=f"Profiles: {', '.join(PROFILES)} (`ai-hub ingest profiles`).",
            )
        return options.profile, False
    for name, profile in PROFILES.items():
        if profile.begins and re.match(profile.begins, beginning):
            return name, True
    return None, False


def with_profile(options: Options, profile: Profile) -> Options:
    """The options, with those of the profile where they are unset."""
    own, form = options.form, profile.form
    stamp_form = options.timestamp_format
    if stamp_form.order is None:
        stamp_form = replace(stamp_form, order=profile.order)
    return replace(
        options,
        timezone=options.timezone or profile.timezone,
        unit=options.unit or profile.unit,
        quality_map={**profile.quality_map, **options.quality_map},
        timestamp_format=stamp_form,
        form=replace(
            own,
            encoding=own.encoding or form.encoding,
            delimiter=own.delimiter or form.delimiter,
            decimal=own.decimal or form.decimal,
            thousands=form.thousands if own.thousands is None and own.decimal is None else own.thousands,
            no_value=(*own.no_value, *form.no_value),
            period=own.period or form.period,
            stamps=own.stamps or form.stamps,
        ),
    )

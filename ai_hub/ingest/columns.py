"""Mapping of a file's columns to the fields of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.ingest.units import UNITS, canonical_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.ingest.datasets import Dataset
    from ai_hub.ingest.options import Options, Profile


@dataclass(frozen=True)
class Field:
    """One field of a table, and the column names it is recognised by."""

    name: str
    #: In order of preference.
    aliases: tuple[str, ...] = ()
    #: Whether two columns with such names are an error.
    unique: bool = False


DATE = Field(
    "date",
    (
        *("datum", "tag", "day", "settlement date", "reading date", "read date", "interval date"),
        *("consumption date", "trading date", "usage date", "fecha"),
    ),
)
TIME_OF_DAY = Field(
    "time", ("zeit", "uhrzeit", "start time", "time of day", "von", "from", "interval time", "hora")
)
PERIOD = Field("period", ("settlement period", "trading period", "sp"))
TIMESTAMP = Field(
    "timestamp",
    (
        *("time", "start", "dt", "datetime", "date time", "zeitstempel", "zeitpunkt", "datum zeit"),
        *("datum/zeit", "datum uhrzeit", "datum/uhrzeit", "date/time", "datum von", "von", "from", "mtu"),
        *("interval start", "start time", "start date", "period start", "timestamp utc", "utc timestamp"),
        *(
            "datetime utc",
            "time stamp",
            "messzeitpunkt",
            "beginn",
            "ab",
            "horodate",
            "  index level 0  ",
            "index",
        ),
        *DATE.aliases,
        "date",
    ),
)
#: End of the interval that the timestamp begins.
INTERVAL_END = Field(
    "interval_end",
    ("end", "end time", "end date", "interval end", "period end", "bis", "datum bis", "ende", "to"),
)
ASSET_ID = Field(
    "asset_id",
    (
        *("asset", "meter", "meter id", "nmi", "mpan", "mpan core", "mprn", "esi id", "metering point"),
        *(
            "usage point",
            "zählpunkt",
            "zählpunktbezeichnung",
            "messlokation",
            "melo id",
            "malo id",
            "melo",
            "malo",
            "cups",
            "prm",
        ),
    ),
)
VALUE = Field(
    "value",
    (
        *(
            "usage",
            "consumption",
            "kwh",
            "wh",
            "mwh",
            "kw",
            "mw",
            "verbrauch",
            "wert",
            "messwert",
            "leistung",
        ),
        *("actual total load", "energy", "power", "zählerstand", "generation", "load", "menge", "lastgang"),
        *("energy consumption", "kwh/hh per half hour", "valeur", "consumo", "consumption value", "netzlast"),
    ),
    unique=True,
)
WEATHER = (
    Field("temperature", ("temperature 2m", "temp", "air temperature", "temperatur", "t2m")),
    Field(
        "humidity", ("relative humidity 2m", "relative humidity", "relativehumidity 2m", "rh", "luftfeuchte")
    ),
    Field("wind_speed", ("wind speed 10m", "windspeed 10m", "windspeed", "windgeschwindigkeit")),
    Field("wind_direction", ("wind direction 10m", "winddirection 10m", "windrichtung")),
    Field("solar_irradiance", ("shortwave radiation", "ghi", "global radiation", "globalstrahlung")),
    Field("cloud_cover", ("cloudcover", "bedeckung")),
    Field("precipitation", ("rainfall", "niederschlag")),
    Field("pressure", ("surface pressure", "pressure msl", "luftdruck")),
)
AVAILABLE_AT = Field(
    "available_at", ("issued_at", "issue_time", "published at", "published", "publication time")
)
#: Of readings, by no other name: what else says when something was issued may be the time of a bill.
READING_AVAILABLE_AT = Field("available_at")
#: Of an external series: whose values they are; the pipeline has it as the asset.
ZONE = Field(
    "asset_id",
    (
        "zone",
        "price zone",
        "bidding zone",
        "market area",
        "area",
        "grid zone",
        "weather station",
        "gebotszone",
    ),
)
SERIES = Field("series", ("series name", "variable"))
OUTSIDE_VALUE = Field(
    "value",
    (
        *("price", "day ahead price", "preis", "tariff", "tarif", "load", "forecast", "actual total load"),
        *("day ahead total load forecast", "wert", "index", "spot price", "marktpreis"),
    ),
    unique=True,
)
QUALITY = Field("quality", ("quality flag", "quality method", "quality code", "reading quality"))
UNIT = Field("unit", ("units", "uom", "einheit"))
#: Text between commas outside of quotes.
_ITEMS = re.compile(r'(?:[^,"]|"(?:[^"]|"")*")+')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_UNIT_IN_NAME = re.compile(r"\[([^\]]+)\]|\(([^()]+)\)\s*$")


def parse_mapping(text: str | None, option: str = "--columns") -> dict[str, str]:
    """`timestamp=start,value=kwh` as a dictionary from field to column.

    As in CSV, text with a comma is in double quotes, in which a quote is doubled: `value="Usage, total"`.

    Raises:
        BadInputError: an item is not `field=column`, a field is named twice, or a quote is not closed.
    """
    mapping: dict[str, str] = {}
    example = {"--columns": "timestamp=start,value=kwh", "--where": "register=E1"}.get(
        option, "A=good,E52=estimated"
    )
    if (text or "").count('"') % 2:
        raise BadInputError(
            f"{option} has a double quote that is not closed.",
            hint='A quote that belongs to a name is doubled, within quotes: value="5"" pipe".',
        )
    for item in _ITEMS.findall(text or ""):
        if not item.strip():
            continue
        field, separator, column = map(_unquoted, _unquoted(item).partition("="))
        if not separator or not field or not column:
            raise BadInputError(
                f"{option} has {item.strip()!r}, which is not NAME=VALUE."
                if option != "--columns"
                else f"--columns has {item.strip()!r}, which is not FIELD=COLUMN.",
                hint=f"Example: {option} {example}",
            )
        if field in mapping:
            raise BadInputError(f"{option} names {field} twice.")
        mapping[field] = column
    return mapping


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace('""', '"') if _QUOTED.fullmatch(text) else text


def normalized_name(column: str) -> str:
    """A column's name without its unit, in lower case, with blanks between words."""
    name = re.sub(r"\[[^\]]*\]", " ", column)
    name = re.sub(r"\([^()]*\)\s*$", " ", name)
    return re.sub(r"\s+", " ", re.sub(r"[_\-.]", " ", name)).strip().casefold() or column.strip().casefold()


def unit_in_name(column: str) -> str | None:
    """The unit in a column's name: in brackets, or in parentheses at its end."""
    if match := _UNIT_IN_NAME.search(column):
        return (match[1] or match[2]).strip()
    return None


def matching_columns(field: Field, available: Sequence[str]) -> list[str]:
    """Columns with the field's name, else those with an alias, in the order of the aliases."""
    names = {column: normalized_name(column) for column in available}
    exact = [
        column
        for column in available
        if column.strip().casefold() in {field.name, field.name.replace("_", " ")}
    ]
    if exact:
        return exact
    spellings = [field.name.replace("_", " "), *field.aliases]
    rank = {
        normalized_name(alias) if alias.strip() == alias else alias.strip(): position
        for position, alias in enumerate(spellings)
    }
    columns = [column for column in available if names[column] in rank]
    return sorted(columns, key=lambda column: rank[names[column]])


def resolve(
    fields: Sequence[Field], available: Sequence[str], chosen: Mapping[str, str], *, required: Sequence[str]
) -> dict[str, str]:
    """Column by field, in the file's order: as `chosen` by options, else by its name.

    Raises:
        BadInputError: a chosen column does not exist, a required field has none, or one is ambiguous;
            the text lists the file's columns.
    """
    listing = f"The file's columns are: {', '.join(available) or '(none)'}."
    names = [field.name for field in fields]
    if unknown := sorted(set(chosen) - set(names)):
        raise BadInputError(
            f"--columns names unknown field(s) {', '.join(unknown)}.",
            hint=f"Fields that can be mapped: {', '.join(names)}.",
        )
    if absent := sorted(column for column in chosen.values() if column not in available):
        raise BadInputError(f"The file has no column {', '.join(map(repr, absent))}.", hint=listing)
    mapping = dict(chosen)
    for field in fields:
        if field.name not in mapping and (column := _guess(field, available, set(mapping.values()), listing)):
            mapping[field.name] = column
    if missing := [name for name in required if name not in mapping]:
        example = ",".join(f"{name}=COLUMN" for name in missing)
        raise BadInputError(
            f"No column of the file is recognised as {', '.join(missing)}.",
            hint=f"{listing} Name the right one with --columns {example}"
            " (is that the header? see --header and --profile).",
        )
    for column in mapping.values():
        if available.count(column) > 1:
            raise BadInputError(f"The file has more than one column {column!r}.", hint=listing)
    return dict(sorted(mapping.items(), key=lambda pair: available.index(pair[1])))


def _guess(field: Field, available: Sequence[str], used: set[str], listing: str) -> str | None:
    """The column with the field's name or its first alias."""
    candidates = [column for column in matching_columns(field, available) if column not in used]
    if field.unique and len(set(candidates)) > 1 and candidates[0].strip().casefold() != field.name:
        raise BadInputError(
            f"More than one column could be the {field.name}: {', '.join(candidates)}.",
            hint=f"{listing} Name the right one with --columns {field.name}=COLUMN.",
        )
    return candidates[0] if candidates else None


_TIME_COLUMN = re.compile(r"^\s*(\d{1,2}):(\d{2})(?::00)?\s*$")
_PERIOD_COLUMN = re.compile(r"(?i)^\s*(?:settlement period|period|sp|hh|p)?[ _]?0*(\d{1,3})\s*$")
#: The hours of the shortest day; fewer columns are not a day.
_FEWEST_PERIODS = 23


def interval_columns(names: Sequence[str]) -> list[str]:
    """Columns of the times or numbered periods of a whole day, in order; else none."""
    for pattern in (_TIME_COLUMN, _PERIOD_COLUMN):
        columns = [name for name in names if pattern.match(name)]
        if len(columns) < _FEWEST_PERIODS:
            continue
        if pattern is _PERIOD_COLUMN and [int(_period_number(name)) for name in columns] != list(
            range(1, len(columns) + 1)
        ):
            continue
        return columns
    return []


def _period_number(name: str) -> str:
    match = _PERIOD_COLUMN.match(name)
    return match[1] if match else "0"


def interval_label(name: str, *, last: bool) -> str:
    """Time of day (24:00 for a last one at midnight) or number of the period, of such a column."""
    if match := _TIME_COLUMN.match(name):
        midnight = last and int(match[1]) == 0 and int(match[2]) == 0
        return "24:00" if midnight else f"{int(match[1]):02}:{match[2]}"
    return _period_number(name)


def fields_of(dataset: Dataset, profile: Profile) -> list[Field]:
    """The dataset's fields and those of separate dates and times, with the profile's aliases."""
    extra = profile.columns
    return [
        Field(field.name, (*extra.get(field.name, ()), *field.aliases), field.unique)
        for field in (DATE, TIME_OF_DAY, PERIOD, *dataset.fields)
    ]


def is_header(names: Sequence[str], fields: Sequence[Field], options: Options) -> bool:
    """Whether a line has a column of time and another recognised one, or the columns that options name."""
    stripped = [name.strip() for name in names]
    chosen = set(options.columns.values())
    if chosen:
        return chosen <= set(stripped) | set(names)
    times = {TIMESTAMP.name, DATE.name}
    recognised_names = {field.name for field in fields if matching_columns(field, names)}
    named = any(unit_of_readings(name) for name in names)
    return bool(recognised_names & times) and (
        len(recognised_names - times - {TIME_OF_DAY.name}) > 0 or named or len(interval_columns(names)) > 0
    )


@dataclass(frozen=True)
class ColumnFinder:
    """Finds the columns of fields: as chosen by options, or by their names."""

    available: list[str]
    chosen: Mapping[str, str]
    fields: Mapping[str, Field]

    @property
    def free(self) -> list[str]:
        """Columns that no option names."""
        return [name for name in self.available if name not in self.chosen.values()]

    def columns(self, field_name: str, *used: str | None) -> list[str]:
        """Columns that could be the field."""
        if field_name in self.chosen:
            return [self.chosen[field_name]]
        free = [name for name in self.free if name not in used]
        return matching_columns(self.fields[field_name], free)


def unit_of_readings(column: str) -> str | None:
    """The unit of readings in a column's name; None where it has none."""
    last = re.split(r"[\s_]+", column.strip())[-1]
    for text in (unit_in_name(column), last):
        if text is not None and canonical_unit(text) in UNITS and (text.casefold() != "l"):
            return canonical_unit(text)
    return None

"""Which column of a file is which field of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.ingest.units import UNITS, spelling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.ingest.datasets import Dataset
    from ai_hub.ingest.options import Options, Profile


@dataclass(frozen=True)
class Field:
    """One field a file may carry, and the column names that obviously mean it."""

    name: str
    #: The first that a column has is taken.
    aliases: tuple[str, ...] = ()
    #: Whether two columns with such names are refused: nothing tells which one is meant.
    sole: bool = False


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
#: Where the interval ends that begins at the timestamp.
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
    sole=True,
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
QUALITY = Field("quality", ("quality flag", "quality method", "quality code", "reading quality"))
UNIT = Field("unit", ("units", "uom", "einheit"))
#: What stands between commas outside of quotes.
_PARTS = re.compile(r'(?:[^,"]|"(?:[^"]|"")*")+')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_UNIT_IN_NAME = re.compile(r"\[([^\]]+)\]|\(([^()]+)\)\s*$")


def parse_mapping(text: str | None, option: str = "--columns") -> dict[str, str]:
    """`timestamp=start,value=kwh` as a dictionary from field to column.

    As in CSV, what has a comma stands in double quotes, in which a quote is doubled: `value="Usage, total"`.

    Raises:
        BadInputError: a part is not `field=column`, a field is named twice, or a quote is not closed.
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
    for part in _PARTS.findall(text or ""):
        if not part.strip():
            continue
        field, separator, column = map(_unquoted, _unquoted(part).partition("="))
        if not separator or not field or not column:
            raise BadInputError(
                f"{option} has {part.strip()!r}, which is not NAME=VALUE."
                if option != "--columns"
                else f"--columns has {part.strip()!r}, which is not FIELD=COLUMN.",
                hint=f"Example: {option} {example}",
            )
        if field in mapping:
            raise BadInputError(f"{option} names {field} twice.")
        mapping[field] = column
    return mapping


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace('""', '"') if _QUOTED.fullmatch(text) else text


def bare(column: str) -> str:
    """A column's name without its unit, in lower case, with blanks between words."""
    name = re.sub(r"\[[^\]]*\]", " ", column)
    name = re.sub(r"\([^()]*\)\s*$", " ", name)
    return re.sub(r"\s+", " ", re.sub(r"[_\-.]", " ", name)).strip().casefold() or column.strip().casefold()


def unit_in(column: str) -> str | None:
    """The unit that a column's name says: in brackets, or as its last word where it is one."""
    if found := _UNIT_IN_NAME.search(column):
        return (found[1] or found[2]).strip()
    return None


def recognised(field: Field, available: Sequence[str]) -> list[str]:
    """Columns with the field's name, else with an alias: in the order of the aliases."""
    names = {column: bare(column) for column in available}
    whole = [
        column
        for column in available
        if column.strip().casefold() in {field.name, field.name.replace("_", " ")}
    ]
    if whole:
        return whole
    wanted = [field.name.replace("_", " "), *field.aliases]
    rank = {
        bare(alias) if alias.strip() == alias else alias.strip(): place for place, alias in enumerate(wanted)
    }
    found = [column for column in available if names[column] in rank]
    return sorted(found, key=lambda column: rank[names[column]])


def resolve(
    fields: Sequence[Field], available: Sequence[str], given: Mapping[str, str], *, required: Sequence[str]
) -> dict[str, str]:
    """Column of each field the file carries, in the file's order: as given, else by its obvious name.

    Raises:
        BadInputError: a given column does not exist, a required field has none, or one is ambiguous;
            the text lists the file's columns.
    """
    listing = f"The file's columns are: {', '.join(available) or '(none)'}."
    names = [field.name for field in fields]
    if unknown := sorted(set(given) - set(names)):
        raise BadInputError(
            f"--columns names unknown field(s) {', '.join(unknown)}.",
            hint=f"Fields that can be mapped: {', '.join(names)}.",
        )
    if absent := sorted(column for column in given.values() if column not in available):
        raise BadInputError(f"The file has no column {', '.join(map(repr, absent))}.", hint=listing)
    found = dict(given)
    for field in fields:
        if field.name not in found and (column := _guess(field, available, set(found.values()), listing)):
            found[field.name] = column
    if missing := [name for name in required if name not in found]:
        example = ",".join(f"{name}=COLUMN" for name in missing)
        raise BadInputError(
            f"No column of the file is recognised as {', '.join(missing)}.",
            hint=f"{listing} Name the right one with --columns {example}"
            " (is that the header? see --header and --profile).",
        )
    for column in found.values():
        if available.count(column) > 1:
            raise BadInputError(f"The file has more than one column {column!r}.", hint=listing)
    return dict(sorted(found.items(), key=lambda pair: available.index(pair[1])))


def _guess(field: Field, available: Sequence[str], taken: set[str], listing: str) -> str | None:
    """The one column with the field's name or an alias, by that order of preference."""
    found = [column for column in recognised(field, available) if column not in taken]
    if field.sole and len(set(found)) > 1 and found[0].strip().casefold() != field.name:
        raise BadInputError(
            f"More than one column could be the {field.name}: {', '.join(found)}.",
            hint=f"{listing} Name the right one with --columns {field.name}=COLUMN.",
        )
    return found[0] if found else None


_TIME_COLUMN = re.compile(r"^\s*(\d{1,2}):(\d{2})(?::00)?\s*$")
_PERIOD_COLUMN = re.compile(r"(?i)^\s*(?:settlement period|period|sp|hh|p)?[ _]?0*(\d{1,3})\s*$")
#: Fewer columns than the hours of the shortest day are no day.
_FEWEST_PERIODS = 23


def is_wide(names: Sequence[str]) -> list[str]:
    """Columns that are times of a day or its periods counted from 1, in order; none where there are few."""
    for pattern in (_TIME_COLUMN, _PERIOD_COLUMN):
        found = [name for name in names if pattern.match(name)]
        if len(found) < _FEWEST_PERIODS:
            continue
        if pattern is _PERIOD_COLUMN and [int(_period_number(name)) for name in found] != list(
            range(1, len(found) + 1)
        ):
            continue
        return found
    return []


def _period_number(name: str) -> str:
    found = _PERIOD_COLUMN.match(name)
    return found[1] if found else "0"


def interval_label(name: str, *, last: bool) -> str:
    """Time of day, the last one not at midnight before it; or the number of the period."""
    if found := _TIME_COLUMN.match(name):
        midnight = last and int(found[1]) == 0 and int(found[2]) == 0
        return "24:00" if midnight else f"{int(found[1]):02}:{found[2]}"
    return _period_number(name)


def fields_of(dataset: Dataset, profile: Profile) -> list[Field]:
    """Fields of a table and of times apart from their dates, with the names that the profile adds."""
    extra = profile.columns
    return [
        Field(each.name, (*extra.get(each.name, ()), *each.aliases), each.sole)
        for each in (DATE, TIME_OF_DAY, PERIOD, *dataset.fields)
    ]


def is_header(names: Sequence[str], fields: Sequence[Field], options: Options) -> bool:
    """Whether a line has a column of time and another one that is known, or those that are given."""
    stripped = [name.strip() for name in names]
    given = set(options.columns.values())
    if given:
        return given <= set(stripped) | set(names)
    times = {TIMESTAMP.name, DATE.name}
    found = {each.name for each in fields if recognised(each, names)}
    named = any(unit_of_readings(name) for name in names)
    return bool(found & times) and (
        len(found - times - {TIME_OF_DAY.name}) > 0 or named or len(is_wide(names)) > 0
    )


@dataclass(frozen=True)
class ColumnFinder:
    """Columns of fields, as given or by their names."""

    available: list[str]
    given: Mapping[str, str]
    fields: Mapping[str, Field]

    @property
    def free(self) -> list[str]:
        """Columns that no option names."""
        return [name for name in self.available if name not in self.given.values()]

    def columns(self, field_name: str, *taken: str | None) -> list[str]:
        """Columns that could be the field."""
        if field_name in self.given:
            return [self.given[field_name]]
        free = [name for name in self.free if name not in taken]
        return recognised(self.fields[field_name], free)


def unit_of_readings(column: str) -> str | None:
    """A unit of readings that a column's name says."""
    last = re.split(r"[\s_]+", column.strip())[-1]
    for text in (unit_in(column), last):
        if text is not None and spelling(text) in UNITS and (text.casefold() != "l"):
            return spelling(text)
    return None

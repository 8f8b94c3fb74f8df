"""What a file says and how: columns, units, zones, numbers and dates, decided once, then read in blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ai_hub.errors import BadInputError
from ai_hub.ingest import columns, numerals, profiles, rules
from ai_hub.ingest.assets import check_zone
from ai_hub.ingest.blocks import Malformed, Source, original
from ai_hub.ingest.columns import DATE, INTERVAL_END, PERIOD, TIME_OF_DAY, TIMESTAMP
from ai_hub.ingest.numerals import NumberFormat
from ai_hub.ingest.report import Options
from ai_hub.ingest.source import beginning, open_source
from ai_hub.ingest.terms import DateOrder, Reading, TemperatureUnit
from ai_hub.ingest.timestamps import TimestampFormat, date_orders
from ai_hub.ingest.units import UNITS, spelling
from ai_hub.ingest.wide import NO_PERIOD, is_wide, melt, start_of_periods

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ai_hub.ingest.datasets import Dataset

_BETWEEN = "^(?P<begin>.*?\\d(?: ?\\(?[A-Z]{3,5}\\)?)?) +(?:-|\u2013|bis|to) +(?P<end>.*\\d.*)$"
_TIME_ONLY = r"^\d{1,2}:\d{2}(?::\d{2})?$"
#: Zones that headers name, as ENTSO-E does.
_HEADER_ZONES = {
    **dict.fromkeys(("utc", "gmt", "z"), "UTC"),
    **dict.fromkeys(("cet/cest", "mez/mesz"), "Europe/Brussels"),
    **dict.fromkeys(("wet/west",), "Europe/Lisbon"),
    **dict.fromkeys(("eet/eest",), "Europe/Helsinki"),
}
#: Multiplier and offset that bring a unit in a header to that of the table.
_FAHRENHEIT = (5 / 9, -160 / 9)
_WEATHER_UNITS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "temperature": {
        **dict.fromkeys(("°c", "c", "degc"), (1.0, 0.0)),
        **dict.fromkeys(("°f", "f", "degf"), _FAHRENHEIT),
        "k": (1, -273.15),
    },
    "humidity": {"%": (1, 0)},
    "wind_speed": {"m/s": (1, 0), "km/h": (1 / 3.6, 0), "kmh": (1 / 3.6, 0), "mph": (0.44704, 0)}
    | {"mp/h": (0.44704, 0), "kn": (1852 / 3600, 0), "ms": (1, 0)},
    "wind_direction": {"°": (1, 0), "deg": (1, 0)},
    "solar_irradiance": {"w/m²": (1, 0), "w/m2": (1, 0), "kw/m²": (1000, 0)},
    "cloud_cover": {"%": (1, 0)},
    "precipitation": {"mm": (1, 0), "cm": (10, 0), "inch": (25.4, 0), "in": (25.4, 0)},
    "pressure": {"hpa": (1, 0), "mbar": (1, 0), "pa": (0.01, 0), "kpa": (10, 0), "inhg": (33.8639, 0)},
}


@dataclass(frozen=True)
class Readout:
    """A block of a file as fields of a table."""

    cells: pd.DataFrame
    #: Why a row cannot be read; empty where it can.
    reasons: pd.Series[str]
    #: Rows that say there is no value.
    missing: int
    malformed: list[Malformed]
    fraction: float


@dataclass
class Layout:
    """How to read one open file."""

    #: With what the file and its profile say.
    options: Options
    #: Column of the file that each column of `Readout.cells` shows as it was written.
    originals: dict[str, str] = field(default_factory=dict)
    #: What was guessed or taken from the file.
    notes: list[str] = field(default_factory=list)
    source: Source = None  # type: ignore[assignment]
    mapping: dict[str, str] = field(default_factory=dict)
    wide: list[str] = field(default_factory=list)
    #: What the columns of a wide file say: period or time.
    interval: str = ""
    measures: list[str] = field(default_factory=list)
    numbers: NumberFormat = numerals.POINT
    factors: dict[str, tuple[float, float]] = field(default_factory=dict)
    has_ends: bool = False

    def blocks(self) -> Iterator[Readout]:
        """The file's rows, block by block."""
        where = self.options.form.where
        names = list(dict.fromkeys([*self.mapping.values(), *self.wide, *where]))
        offset = 0
        for block in self.source.blocks(names):
            cells = block.cells
            for column, text in where.items():
                cells = cells[cells[column].astype("string").str.strip().eq(text).fillna(value=False)]
            if self.wide:
                cells = melt(cells, self.wide, offset)
                offset += len(cells)
            cells, reasons, missing = self._read(cells)
            yield Readout(cells, reasons, missing, block.malformed, block.fraction)

    def _read(self, raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[str], int]:
        given = {name: raw[column] for name, column in self.mapping.items()}
        if self.wide:
            given |= {"value": raw["value"], self.interval: raw["interval"]}
        cells: dict[str, pd.Series[Any]] = dict(given)
        missing, reasons = self._measures(cells, raw.index)
        reasons = self._times(cells, reasons)
        for name, series in given.items():
            if cells.get(name) is not series:
                cells[original(name)] = series
        frame = pd.DataFrame(cells, index=raw.index)
        if "line" in raw and "line" not in frame:
            frame["line"] = raw["line"]
        if missing.any():
            # A wide file has columns for the longest day.
            count = int((missing & (reasons != NO_PERIOD)).sum())
            return frame[~missing], reasons[~missing], count
        return frame, reasons, 0

    def _measures(
        self, cells: dict[str, pd.Series[Any]], index: pd.Index[Any]
    ) -> tuple[pd.Series[bool], pd.Series[str]]:
        """Bring numbers to a plain form and the table's units.

        Returns which rows have no value, and why a row is not read.
        """
        reasons = pd.Series("", index=index, dtype=object)
        missing = pd.Series(data=False, index=index)
        if self.numbers != numerals.POINT or not all(numerals.are_plain(cells[n]) for n in self.measures):
            missing = self._no_values(cells)
            words = {text.casefold() for text in self.options.form.no_value}
            for name in self.measures:
                cells[name], why = numerals.to_plain(cells[name], self.numbers, name)
                reasons = reasons.where((reasons != "") | missing, why)
                if name != "value":
                    folded = cells[name].astype("string").str.strip().str.casefold()
                    cells[name] = cells[name].mask(folded.isin(words).fillna(value=False), "")
        for name, (factor, shift) in self.factors.items():
            numbers = pd.to_numeric(cells[name], errors="coerce")
            cells[name] = cells[name].where(numbers.isna(), (numbers * factor + shift).round(9))
        return missing, reasons

    def _no_values(self, given: dict[str, pd.Series[Any]]) -> pd.Series[bool]:
        column = given.get("value")
        if column is None or (column.dtype != object and not isinstance(column.dtype, pd.StringDtype)):
            return pd.Series(False, index=next(iter(given.values())).index)
        words = "|".join(re.escape(text) for text in dict.fromkeys(self.options.form.no_value))
        pattern = rf"(?i)^\s*(?:{words})\s*$"
        try:
            texts = pa.array(column, type=pa.string(), from_pandas=True)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            texts = pa.array(column.astype("string"), type=pa.string())
        empty = "" in self.options.form.no_value
        matched = pc.match_substring_regex(texts, pattern).fill_null(empty)
        return pd.Series(matched.to_numpy(zero_copy_only=False), index=column.index)

    def _times(self, cells: dict[str, pd.Series[Any]], reasons: pd.Series[str]) -> pd.Series[str]:
        """Timestamps from date and time or period, and the two ends of an interval in one cell."""
        length = self.options.form.period
        if PERIOD.name in cells and length is not None:
            cells["timestamp"], why = start_of_periods(
                cells[DATE.name],
                cells[PERIOD.name],
                length,
                self.options.timezone or "UTC",
                self.options.timestamp_format,
            )
            return reasons.where(reasons != "", why)
        if DATE.name in cells and TIME_OF_DAY.name in cells:
            date, begin = (_text(cells[name]) for name in (DATE.name, TIME_OF_DAY.name))
            day = date.str.replace(r"[ T]00:00(?::00)?$", "", regex=True)
            cells["timestamp"] = day + " " + begin
            if INTERVAL_END.name in cells:
                end = _text(cells[INTERVAL_END.name])
                if end.str.match(_TIME_ONLY).all():
                    cells[INTERVAL_END.name] = day + " " + _end_of_day(_closed(begin, end))
        elif self.has_ends:
            texts = pa.array(_text(cells["timestamp"]), type=pa.string(), from_pandas=True)
            parts = pc.extract_regex(texts, _BETWEEN)
            begin, end = (
                pd.Series(parts.field(name).to_numpy(zero_copy_only=False), index=cells["timestamp"].index)
                for name in ("begin", "end")
            )
            split = begin.notna() & begin.ne("")
            day = begin.str.extract(r"^(.*?)[ T]+\d{1,2}:\d{2}", expand=False)
            end = end.where(
                ~end.str.match(_TIME_ONLY).fillna(value=False).astype(bool), day + " " + _end_of_day(end)
            )
            cells[INTERVAL_END.name] = end.where(split, "")
            cells["timestamp"] = begin.where(split, cells["timestamp"])
        return reasons


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype("string").str.strip().fillna("").astype(object)


def _end_of_day(end: pd.Series[Any]) -> pd.Series[Any]:
    return end.str.replace(r"^0?0:00(:00)?$", "24:00", regex=True)


def _closed(begin: pd.Series[Any], end: pd.Series[Any]) -> pd.Series[Any]:
    """Ends such as 00:59, the last minute of the interval, as the minute after it."""
    first, last = (
        column.str[:2].str.rstrip(":").astype(float) * 60
        + column.str.extract(r":(\d{2})", expand=False).astype(float)
        for column in (begin, end)
    )
    inclusive = (last - first) % 5 == 4  # noqa: PLR2004 - intervals are multiples of five minutes
    if not inclusive.all():
        return end
    after = (last + 1).astype(int)
    return (after // 60).map("{:02}".format) + ":" + (after % 60).map("{:02}".format)


@contextmanager
def open_layout(path: Path, dataset: Dataset, options: Options) -> Iterator[Layout]:
    """Open a file and decide how to read it.

    Raises:
        NotFoundError: no such file.
        BadInputError: it cannot be read, or not in one way only; the hint names the option that decides.
    """
    name, guessed = profiles.profile_of(options, beginning(path))
    profile = profiles.PROFILES[name] if name else profiles.Profile(summary="")
    applied = profiles.apply(profile, options)
    if applied.form.stamps is not None:
        applied = replace(applied, stamps=applied.form.stamps)
    fields = _fields(dataset, profile)

    def recognises(names: Sequence[str]) -> bool:
        return _is_header(names, fields, applied)

    with open_source(path, applied.form, reader=profile.reader, recognises=recognises) as source:
        layout = Layout(applied, source=source, notes=list(source.notes))
        if guessed:
            layout.notes.insert(0, f"profile {name}, because the file begins like one (--profile)")
        _columns(layout, dataset, fields)
        _meters(layout)
        if name == "open-meteo":
            _open_meteo(layout)
        _header_zone(layout)
        _units(layout, dataset)
        _numbers(layout)
        _dates(layout)
        yield layout


def _fields(dataset: Dataset, profile: profiles.Profile) -> list[columns.Field]:
    extra = profile.columns
    return [
        columns.Field(each.name, (*extra.get(each.name, ()), *each.aliases), each.sole)
        for each in (DATE, TIME_OF_DAY, PERIOD, *dataset.fields)
    ]


def _is_header(names: Sequence[str], fields: Sequence[columns.Field], options: Options) -> bool:
    """Whether a line has a column of time and another one that is known, or those that are given."""
    stripped = [name.strip() for name in names]
    given = set(options.columns.values())
    if given:
        return given <= set(stripped) | set(names)
    times = {TIMESTAMP.name, DATE.name}
    found = {each.name for each in fields if columns.recognised(each, names)}
    named = any(_unit(name) for name in names)
    return bool(found & times) and (
        len(found - times - {TIME_OF_DAY.name}) > 0 or named or len(is_wide(names)) > 0
    )


def _columns(layout: Layout, dataset: Dataset, fields: list[columns.Field]) -> None:
    """Find the column of every field."""
    options, available = layout.options, layout.source.columns
    listing = f"The file's columns are: {', '.join(available)}."
    by_name = {each.name: each for each in fields}
    finder = _Finder(available, options.columns, by_name)
    is_readings = "value" in by_name
    if is_readings and not finder.columns("value"):
        layout.wide = is_wide(finder.free)
    given = dict(options.columns) | _times_of_day(layout, finder)
    if options.form.period is not None and PERIOD.name not in given and layout.interval != PERIOD.name:
        raise BadInputError(
            "No column of the file is recognised as the period of a day.",
            hint=f"{listing} Name it with --columns date=COLUMN,period=COLUMN.",
        )
    skip = {each.name for each in (DATE, TIME_OF_DAY, PERIOD)}
    skip |= {TIMESTAMP.name} if DATE.name in given else set()
    skip |= {"value"} if layout.wide else set()
    skip |= {"asset_id"} if options.asset is not None else set()
    united = [name for name in finder.free if _unit(name)]
    if is_readings and not layout.wide and not finder.columns("value") and len(united) == 1:
        given["value"] = united[0]
    chosen = [each for each in fields if each.name not in skip or each.name in given]
    required = [name for name in (*dataset.required, "asset_id") if name not in skip]
    layout.mapping = columns.resolve(chosen, available, given, required=required)
    dataset.choose(layout.mapping, available)
    if absent := [name for name in options.form.where if name not in available]:
        raise BadInputError(
            f"The file has no column {', '.join(map(repr, absent))} for --where.", hint=listing
        )
    layout.measures = ["value"] if is_readings else [name for name in rules.WEATHER if name in layout.mapping]
    _wide_columns(layout)
    _shape(layout)


@dataclass(frozen=True)
class _Finder:
    """Columns of fields, as given or by their names."""

    available: list[str]
    given: Mapping[str, str]
    fields: Mapping[str, columns.Field]

    @property
    def free(self) -> list[str]:
        return [name for name in self.available if name not in self.given.values()]

    def columns(self, field_name: str, *taken: str | None) -> list[str]:
        """Columns that could be the field."""
        if field_name in self.given:
            return [self.given[field_name]]
        free = [name for name in self.free if name not in taken]
        return columns.recognised(self.fields[field_name], free)


def _times_of_day(layout: Layout, finder: _Finder) -> dict[str, str]:
    """Columns of the date and of the time or period beside it, where they are apart."""
    whole = [name for name in finder.available if name.strip().casefold() == TIMESTAMP.name]
    if TIMESTAMP.name in finder.given or whole:
        return {}
    dates = finder.columns(DATE.name) or (finder.columns(TIMESTAMP.name) if layout.wide else [])
    if not dates:
        return {}
    date = dates[0]
    time, period = finder.columns(TIME_OF_DAY.name, date), finder.columns(PERIOD.name, date)
    if layout.wide:
        layout.interval = TIME_OF_DAY.name if ":" in layout.wide[0] else PERIOD.name
        found = {DATE.name: date}
    elif period and not time:
        found = {DATE.name: date, PERIOD.name: period[0]}
    elif time:
        return {DATE.name: date, TIME_OF_DAY.name: time[0]}
    else:
        return {}
    if PERIOD.name in {*found, layout.interval} and layout.options.form.period is None:
        what = f"in columns {layout.wide[0]} to {layout.wide[-1]}" if layout.wide else f"in {period[0]!r}"
        raise BadInputError(
            f"The file counts periods of the day {what}, and nothing says how long they are.",
            hint="Say --profile uk-settlement for half hours of Great Britain, or --period and --timezone.",
        )
    return found


def _wide_columns(layout: Layout) -> None:
    if not layout.wide:
        return
    layout.notes.append(
        f"one row a day: {len(layout.wide)} columns of values, {layout.wide[0]} to {layout.wide[-1]}"
    )
    at_midnight = re.fullmatch(r"\s*0?0:00(?::00)?\s*", layout.wide[0])
    if layout.interval != PERIOD.name and not at_midnight and layout.options.form.stamps is None:
        raise BadInputError(
            f"The columns of values begin with {layout.wide[0]!r}: the start or the end of its interval?",
            hint="Say --stamps start or --stamps end.",
        )


def _shape(layout: Layout) -> None:
    """Which columns are shown as they were written, and whether a cell has both ends of an interval."""
    mapping, source = layout.mapping, layout.source
    if TIMESTAMP.name in mapping and INTERVAL_END.name not in mapping:
        for block in source.blocks([mapping[TIMESTAMP.name]]):
            column = block.cells[mapping[TIMESTAMP.name]]
            if column.dtype == object and len(column):
                layout.has_ends = bool(_text(column.iloc[:20]).str.match(_BETWEEN).any())
            break
    if layout.has_ends:
        layout.notes.append("each timestamp has both ends of its interval")
    layout.originals = dict(mapping)
    if layout.wide:
        layout.originals |= {layout.interval: "interval", "value": "value"}


def _meters(layout: Layout) -> None:
    meters = layout.source.meters
    if meters is None:
        return
    where = layout.options.form.where
    chosen = [meter for meter in meters if where.get("meter", meter) == meter]
    if layout.options.asset is not None and len(chosen) > 1 and not where:
        raise BadInputError(
            f"The file has readings of {len(meters)} meters or registers: {', '.join(meters[:5])}.",
            hint="Leave --asset out, or choose one with --where meter=… or --where register=E1.",
        )
    if layout.options.asset is None:
        layout.notes.append(f"asset: meter and register or flow, such as {meters[0]} (--asset, --where)")
    if getattr(layout.source, "is_register", False):
        if layout.options.reading not in {None, Reading.REGISTER}:
            raise BadInputError(
                f"The values are those of a register that counts on, not {layout.options.reading}.",
                hint="Leave --reading out, or download interval data (ESPI accumulationBehaviour 4).",
            )
        layout.options = replace(layout.options, reading=Reading.REGISTER)
        layout.notes.append("reading: a register that counts on, by accumulationBehaviour")


def _open_meteo(layout: Layout) -> None:
    """All timestamps of Open-Meteo have one offset, also through clock changes."""
    preamble = [row for row in layout.source.preamble if any(row)]
    try:
        facts = dict(zip(preamble[0], preamble[1], strict=True))
        seconds = int(facts["utc_offset_seconds"])
        hours, minutes = divmod(abs(seconds) // 60, 60)
    except (IndexError, KeyError, ValueError) as error:
        raise BadInputError("The file does not say utc_offset_seconds, as Open-Meteo does.") from error
    if layout.options.timestamp_format != TimestampFormat():
        return
    sign = "-" if seconds < 0 else "+"
    layout.options = replace(
        layout.options, timestamp_format=TimestampFormat(offset=f"{sign}{hours:02}:{minutes:02}")
    )
    layout.notes.append(f"offset of every timestamp {sign}{hours:02}:{minutes:02}, as the file says")


def _header_zone(layout: Layout) -> None:
    column = layout.mapping.get(TIMESTAMP.name) or layout.mapping.get(DATE.name, "")
    found = re.search(r"\(([A-Za-z/]+)\)\s*$", column) or re.search(r"(?i)(?:^|[_ ])(utc)(?:$|[_ ])", column)
    named = found[1].casefold() if found else ""
    zone = _HEADER_ZONES.get(named)
    if zone is None:
        if named in {"cet", "mez", "cest", "mesz"} and layout.options.timezone is None:
            raise BadInputError(
                f"{column!r} could mean a fixed offset or a clock with summer time.",
                hint="Say --timezone Europe/Berlin, or --timezone Etc/GMT-1 for CET all year.",
            )
        return
    if layout.options.timezone is None:
        layout.options = replace(layout.options, timezone=check_zone(zone))
        layout.notes.append(f"time zone {zone}, from the column {column!r} (--timezone)")
    elif (layout.options.timezone == "UTC") != (zone == "UTC"):
        raise BadInputError(
            f"The column {column!r} is not in {layout.options.timezone}.",
            hint="Correct or leave out --timezone.",
        )


def _unit(column: str) -> str | None:
    """A unit of readings that a column's name says."""
    last = re.split(r"[\s_]+", column.strip())[-1]
    for text in (columns.unit_in(column), last):
        if text is not None and spelling(text) in UNITS and (text.casefold() != "l"):
            return spelling(text)
    return None


def _units(layout: Layout, dataset: Dataset) -> None:
    """Units that the names of columns say."""
    if layout.measures == ["value"]:
        _unit_of_readings(layout)
        return
    fahrenheit = getattr(dataset, "temperature_unit", None) is TemperatureUnit.FAHRENHEIT
    for name in layout.measures:
        column = layout.mapping[name]
        unit = columns.unit_in(column)
        if unit is None:
            continue
        known, own = _WEATHER_UNITS[name], rules.WEATHER[name].unit
        if unit.casefold() not in known:
            raise BadInputError(
                f"The column {column!r} is in {unit!r}, which does not convert to {own}.",
                hint=f"Units of {name} that do: {', '.join(known)}.",
            )
        factor = known[unit.casefold()]
        if name == "temperature" and fahrenheit:
            if factor != known["f"]:
                raise BadInputError(
                    f"The column {column!r} is not in °F.", hint="Correct or leave out --temperature-unit."
                )
        elif factor != (1, 0):
            layout.factors[name] = factor
            layout.notes.append(f"{name} from {unit} to {own}, by the column {column!r}")


def _unit_of_readings(layout: Layout) -> None:
    options, column = layout.options, layout.mapping.get("value", "")
    unit = _unit(column)
    if "unit" in layout.mapping or not column:
        return
    if unit is None:
        other = columns.unit_in(column)
        if other and options.unit is None:
            layout.notes.append(f"the column {column!r} is in {other!r}, which is no unit we know (--unit)")
    elif options.unit is None:
        layout.options = replace(options, unit=unit)
        layout.notes.append(f"unit {unit}, from the column {column!r} (--unit)")
    elif spelling(options.unit) != unit:
        raise BadInputError(
            f"The column {column!r} is in {unit}, not in {options.unit}.",
            hint="Correct or leave out --unit.",
        )


def _numbers(layout: Layout) -> None:
    """How the numbers of the file are written."""
    form = layout.options.form
    names = layout.wide or [layout.mapping[name] for name in layout.measures]
    layout.numbers = numerals.decide(
        ([block.cells[name] for name in names] for block in layout.source.blocks(names)),
        delimiter=layout.source.delimiter,
        decimal=form.decimal,
        thousands=form.thousands,
    )
    if form.decimal is None and layout.numbers != numerals.POINT:
        mark = "comma" if layout.numbers.decimal == "," else "point"
        groups = f", thousands {layout.numbers.thousands!r}" if layout.numbers.thousands else ""
        layout.notes.append(f"numbers with decimal {mark}{groups} (--decimal, --thousands)")


def _ends_of_days(layout: Layout) -> None:
    """Say what 24:00 suggests: it is the end of an interval, as no interval begins there."""
    if layout.options.form.stamps is not None or layout.has_ends or layout.wide:
        return
    name = layout.mapping.get(TIME_OF_DAY.name) or layout.mapping.get(TIMESTAMP.name)
    for block in layout.source.blocks([name]) if name else ():
        if block.cells[name].dtype == object and _text(block.cells[name]).str.contains(r"\b24:00").any():
            layout.notes.append(
                "24:00 is the start of an interval of the next day: are timestamps its end? (--stamps end)"
            )
        return


def _dates(layout: Layout) -> None:
    """Which part of a date comes first, where the file can tell."""
    _ends_of_days(layout)
    form = layout.options.timestamp_format
    if form.order is not None or form.strptime is not None or form.epoch is not None:
        return
    name = layout.mapping.get(DATE.name) or layout.mapping[TIMESTAMP.name]
    seen = [False, False, False]
    for block in layout.source.blocks([name]):
        column = block.cells[name]
        if column.dtype != object:
            return
        seen = [a or b for a, b in zip(seen, date_orders(_text(column)), strict=True)]
        if not seen[0] or seen[1] != seen[2]:
            break
    any_such, day_first, month_first = seen
    if any_such and day_first == month_first:
        raise BadInputError(
            "Nothing in the file tells whether its dates begin with the day or the month."
            if not day_first
            else "Some dates of the file can only begin with the day, others only with the month.",
            hint="Say --date-format dmy or --date-format mdy.",
        )
    if any_such:
        order = DateOrder.DAY if day_first else DateOrder.MONTH
        layout.options = replace(layout.options, timestamp_format=replace(form, order=order))
        layout.notes.append(f"dates as {order} (--date-format)")

"""Detection of a file's layout: its columns, units, zone, numbers and dates."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.ingest import columns, numbers, validation
from ai_hub.ingest.assets import check_zone
from ai_hub.ingest.cells import BOTH_ENDS, Layout, as_text
from ai_hub.ingest.columns import (
    DATE,
    INTERVAL_END,
    PERIOD,
    TIME_OF_DAY,
    TIMESTAMP,
    ColumnFinder,
    fields_of,
    interval_columns,
    is_header,
    unit_of_readings,
)
from ai_hub.ingest.options import (
    PROFILES,
    DateOrder,
    Options,
    Profile,
    Reading,
    TemperatureUnit,
    TimestampFormat,
    detect_profile,
    with_profile,
)
from ai_hub.ingest.reader import beginning, open_source
from ai_hub.ingest.timestamps import date_orders
from ai_hub.ingest.units import canonical_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ai_hub.ingest.datasets import Dataset

#: Zones in column names, such as those of ENTSO-E.
_HEADER_ZONES = {
    **dict.fromkeys(("utc", "gmt", "z"), "UTC"),
    **dict.fromkeys(("cet/cest", "mez/mesz"), "Europe/Brussels"),
    **dict.fromkeys(("wet/west",), "Europe/Lisbon"),
    **dict.fromkeys(("eet/eest",), "Europe/Helsinki"),
}
#: Multiplier and offset from a unit in a column's name to that of the table.
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


@contextmanager
def open_layout(path: Path, dataset: Dataset, options: Options) -> Iterator[Layout]:
    """Open a file and detect its layout.

    Raises:
        NotFoundError: the file does not exist.
        BadInputError: the file cannot be read, or is ambiguous; the hint names the option that decides.
    """
    name, is_detected = detect_profile(options, beginning(path))
    profile = PROFILES[name] if name else Profile(summary="")
    applied = with_profile(options, profile)
    if applied.form.stamps is not None:
        applied = replace(applied, stamps=applied.form.stamps)
    fields = fields_of(dataset, profile)

    with open_source(
        path,
        applied.form,
        reader=profile.reader,
        is_header=lambda names: is_header(names, fields, applied),
    ) as source:
        layout = Layout(applied, source=source, notes=list(source.notes))
        if is_detected:
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


def _columns(layout: Layout, dataset: Dataset, fields: list[columns.Field]) -> None:
    """Find the column of every field."""
    options, available = layout.options, layout.source.columns
    listing = f"The file's columns are: {', '.join(available)}."
    by_name = {field.name: field for field in fields}
    finder = ColumnFinder(available, options.columns, by_name)
    is_readings = "value" in by_name
    if is_readings and not finder.columns("value"):
        layout.wide = interval_columns(finder.free)
    chosen_columns = dict(options.columns) | _times_of_day(layout, finder)
    if (
        options.form.period is not None
        and PERIOD.name not in chosen_columns
        and layout.interval != PERIOD.name
    ):
        raise BadInputError(
            "No column of the file is recognised as the period of a day.",
            hint=f"{listing} Name it with --columns date=COLUMN,period=COLUMN.",
        )
    skip = {field.name for field in (DATE, TIME_OF_DAY, PERIOD)}
    skip |= {TIMESTAMP.name} if DATE.name in chosen_columns else set()
    skip |= {"value"} if layout.wide else set()
    skip |= {"asset_id"} if options.asset is not None else set()
    united = [name for name in finder.free if unit_of_readings(name)]
    if is_readings and not layout.wide and not finder.columns("value") and len(united) == 1:
        chosen_columns["value"] = united[0]
    used_fields = [field for field in fields if field.name not in skip or field.name in chosen_columns]
    needed = (*dataset.required, "asset_id") if dataset.has_assets else dataset.required
    required = [name for name in needed if name not in skip]
    layout.mapping = columns.resolve(used_fields, available, chosen_columns, required=required)
    dataset.select_fields(layout.mapping, available)
    if absent := [name for name in options.form.where if name not in available]:
        raise BadInputError(
            f"The file has no column {', '.join(map(repr, absent))} for --where.", hint=listing
        )
    layout.measures = (
        ["value"] if is_readings else [name for name in validation.WEATHER if name in layout.mapping]
    )
    _wide_columns(layout)
    _shape(layout)


def _times_of_day(layout: Layout, finder: ColumnFinder) -> dict[str, str]:
    """Separate columns of the date and of its time or period, by field."""
    exact = [name for name in finder.available if name.strip().casefold() == TIMESTAMP.name]
    if TIMESTAMP.name in finder.chosen or exact:
        return {}
    dates = finder.columns(DATE.name) or (finder.columns(TIMESTAMP.name) if layout.wide else [])
    if not dates:
        return {}
    date = dates[0]
    time, period = finder.columns(TIME_OF_DAY.name, date), finder.columns(PERIOD.name, date)
    if layout.wide:
        layout.interval = TIME_OF_DAY.name if ":" in layout.wide[0] else PERIOD.name
        columns_by_field = {DATE.name: date}
    elif period and not time:
        columns_by_field = {DATE.name: date, PERIOD.name: period[0]}
    elif time:
        return {DATE.name: date, TIME_OF_DAY.name: time[0]}
    else:
        return {}
    if PERIOD.name in {*columns_by_field, layout.interval} and layout.options.form.period is None:
        where = f"in columns {layout.wide[0]} to {layout.wide[-1]}" if layout.wide else f"in {period[0]!r}"
        raise BadInputError(
            f"The file counts periods of the day {where}, and their length is unknown.",
            hint="Say --profile uk-settlement for half hours of Great Britain, or --period and --timezone.",
        )
    return columns_by_field


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
    """Note the original columns, and whether a cell has both ends of an interval."""
    mapping, source = layout.mapping, layout.source
    if TIMESTAMP.name in mapping and INTERVAL_END.name not in mapping:
        for block in source.blocks([mapping[TIMESTAMP.name]]):
            column = block.cells[mapping[TIMESTAMP.name]]
            if column.dtype == object and len(column):
                layout.has_ends = bool(as_text(column.iloc[:20]).str.match(BOTH_ENDS).any())
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
    """Read the offset of all timestamps from the preamble: it is constant, also through clock changes."""
    preamble = [row for row in layout.source.preamble if any(row)]
    try:
        metadata = dict(zip(preamble[0], preamble[1], strict=True))
        seconds = int(metadata["utc_offset_seconds"])
        hours, minutes = divmod(abs(seconds) // 60, 60)
    except (IndexError, KeyError, ValueError) as error:
        raise BadInputError("The file has no utc_offset_seconds, as Open-Meteo files do.") from error
    if layout.options.timestamp_format != TimestampFormat():
        return
    sign = "-" if seconds < 0 else "+"
    layout.options = replace(
        layout.options, timestamp_format=TimestampFormat(offset=f"{sign}{hours:02}:{minutes:02}")
    )
    layout.notes.append(f"offset of every timestamp {sign}{hours:02}:{minutes:02}, as the file says")


def _header_zone(layout: Layout) -> None:
    column = layout.mapping.get(TIMESTAMP.name) or layout.mapping.get(DATE.name, "")
    match = re.search(r"\(([A-Za-z/]+)\)\s*$", column) or re.search(r"(?i)(?:^|[_ ])(utc)(?:$|[_ ])", column)
    named = match[1].casefold() if match else ""
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


def _units(layout: Layout, dataset: Dataset) -> None:
    """Detect units by the names of columns."""
    if layout.measures == ["value"]:
        if dataset.has_assets:
            _unit_of_readings(layout)
        return
    fahrenheit = getattr(dataset, "temperature_unit", None) is TemperatureUnit.FAHRENHEIT
    for name in layout.measures:
        column = layout.mapping[name]
        unit = columns.unit_in_name(column)
        if unit is None:
            continue
        conversions, own = _WEATHER_UNITS[name], validation.WEATHER[name].unit
        if unit.casefold() not in conversions:
            raise BadInputError(
                f"The column {column!r} is in {unit!r}, which does not convert to {own}.",
                hint=f"Units of {name} that do: {', '.join(conversions)}.",
            )
        factor = conversions[unit.casefold()]
        if name == "temperature" and fahrenheit:
            if factor != conversions["f"]:
                raise BadInputError(
                    f"The column {column!r} is not in °F.", hint="Correct or leave out --temperature-unit."
                )
        elif factor != (1, 0):
            layout.factors[name] = factor
            layout.notes.append(f"{name} from {unit} to {own}, by the column {column!r}")


def _unit_of_readings(layout: Layout) -> None:
    options, column = layout.options, layout.mapping.get("value", "")
    unit = unit_of_readings(column)
    if "unit" in layout.mapping or not column:
        return
    if unit is None:
        other = columns.unit_in_name(column)
        if other and options.unit is None:
            layout.notes.append(f"the column {column!r} is in {other!r}, which is no unit we know (--unit)")
    elif options.unit is None:
        layout.options = replace(options, unit=unit)
        layout.notes.append(f"unit {unit}, from the column {column!r} (--unit)")
    elif canonical_unit(options.unit) != unit:
        raise BadInputError(
            f"The column {column!r} is in {unit}, not in {options.unit}.",
            hint="Correct or leave out --unit.",
        )


def _numbers(layout: Layout) -> None:
    """Detect the format of the file's numbers."""
    form = layout.options.form
    names = layout.wide or [layout.mapping[name] for name in layout.measures]
    layout.numbers = numbers.detect_format(
        ([block.cells[name] for name in names] for block in layout.source.blocks(names)),
        delimiter=layout.source.delimiter,
        decimal=form.decimal,
        thousands=form.thousands,
    )
    if form.decimal is None and layout.numbers != numbers.POINT:
        mark_name = "comma" if layout.numbers.decimal == "," else "point"
        groups = f", thousands {layout.numbers.thousands!r}" if layout.numbers.thousands else ""
        layout.notes.append(f"numbers with decimal {mark_name}{groups} (--decimal, --thousands)")


def _ends_of_days(layout: Layout) -> None:
    """Add a note where 24:00 suggests that timestamps are ends of intervals: no interval begins there."""
    if layout.options.form.stamps is not None or layout.has_ends or layout.wide:
        return
    name = layout.mapping.get(TIME_OF_DAY.name) or layout.mapping.get(TIMESTAMP.name)
    for block in layout.source.blocks([name]) if name else ():
        if block.cells[name].dtype == object and as_text(block.cells[name]).str.contains(r"\b24:00").any():
            layout.notes.append(
                "24:00 is the start of an interval of the next day: are timestamps its end? (--stamps end)"
            )
        return


def _dates(layout: Layout) -> None:
    """Detect the order of the parts of a date."""
    _ends_of_days(layout)
    form = layout.options.timestamp_format
    if form.order is not None or form.strptime is not None or form.epoch is not None:
        return
    name = layout.mapping.get(DATE.name) or layout.mapping[TIMESTAMP.name]
    evidence = [False, False, False]
    for block in layout.source.blocks([name]):
        column = block.cells[name]
        if column.dtype != object:
            return
        evidence = [a or b for a, b in zip(evidence, date_orders(as_text(column)), strict=True)]
        if not evidence[0] or evidence[1] != evidence[2]:
            break
    has_ambiguous, day_first, month_first = evidence
    if has_ambiguous and day_first == month_first:
        raise BadInputError(
            "The file does not show whether its dates begin with the day or the month."
            if not day_first
            else "Some dates of the file can only begin with the day, others only with the month.",
            hint="Say --date-format dmy or --date-format mdy.",
        )
    if has_ambiguous:
        order = DateOrder.DAY if day_first else DateOrder.MONTH
        layout.options = replace(layout.options, timestamp_format=replace(form, order=order))
        layout.notes.append(f"dates as {order} (--date-format)")

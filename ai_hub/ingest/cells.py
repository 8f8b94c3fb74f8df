"""Reading of a file's blocks as fields of a table, by its layout."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ai_hub.ingest import numbers, timestamps
from ai_hub.ingest.columns import DATE, INTERVAL_END, PERIOD, TIME_OF_DAY, interval_label
from ai_hub.ingest.numbers import NumberFormat
from ai_hub.ingest.options import Options, TimestampFormat
from ai_hub.ingest.tables import Malformed, Source, original
from ai_hub.ingest.timezones import localize

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

BOTH_ENDS = "^(?P<begin>.*?\\d(?: ?\\(?[A-Z]{3,5}\\)?)?) +(?:-|\u2013|bis|to) +(?P<end>.*\\d.*)$"
_TIME_ONLY = r"^\d{1,2}:\d{2}(?::\d{2})?$"


@dataclass(frozen=True)
class FieldBlock:
    """A block of a file as fields of a table."""

    cells: pd.DataFrame
    #: Why a row is rejected; empty where it is not.
    reasons: pd.Series[str]
    #: Number of rows without a value.
    missing: int
    malformed: list[Malformed]
    #: Share of the file read so far, 0 to 1.
    fraction: float


@dataclass
class Layout:
    """How to read one open file."""

    #: Completed by the file and its profile.
    options: Options
    #: Column of the file by field, for rejected rows.
    originals: dict[str, str] = field(default_factory=dict)
    #: What was detected, for the report.
    notes: list[str] = field(default_factory=list)
    #: The open file.
    source: Source = None  # type: ignore[assignment]
    mapping: dict[str, str] = field(default_factory=dict)
    wide: list[str] = field(default_factory=list)
    #: Field that the columns of a wide file are: period or time.
    interval: str = ""
    measures: list[str] = field(default_factory=list)
    numbers: NumberFormat = numbers.POINT
    factors: dict[str, tuple[float, float]] = field(default_factory=dict)
    has_ends: bool = False

    def blocks(self) -> Iterator[FieldBlock]:
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
            yield FieldBlock(cells, reasons, missing, block.malformed, block.fraction)

    def _read(self, raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[str], int]:
        source_cells = {name: raw[column] for name, column in self.mapping.items()}
        if self.wide:
            source_cells |= {"value": raw["value"], self.interval: raw["interval"]}
        cells: dict[str, pd.Series[Any]] = dict(source_cells)
        missing, reasons = self._measures(cells, raw.index)
        reasons = self._times(cells, reasons)
        for name, series in source_cells.items():
            if cells.get(name) is not series:
                cells[original(name)] = series
        frame = pd.DataFrame(cells, index=raw.index)
        if "line" in raw and "line" not in frame:
            frame["line"] = raw["line"]
        if missing.any():
            # A wide file has columns for the longest day; those beyond a shorter day are not missing.
            count = int((missing & (reasons != NO_PERIOD)).sum())
            return frame[~missing], reasons[~missing], count
        return frame, reasons, 0

    def _measures(
        self, cells: dict[str, pd.Series[Any]], index: pd.Index[Any]
    ) -> tuple[pd.Series[bool], pd.Series[str]]:
        """Convert numbers to plain text with a decimal point, in the table's units.

        Returns which rows have no value, and why a row is rejected.
        """
        reasons = pd.Series("", index=index, dtype=object)
        missing = pd.Series(data=False, index=index)
        if self.numbers != numbers.POINT or not all(numbers.are_plain(cells[n]) for n in self.measures):
            missing = self._no_values(cells)
            words = {text.casefold() for text in self.options.form.no_value}
            for name in self.measures:
                cells[name], why = numbers.to_plain(cells[name], self.numbers, name)
                reasons = reasons.where((reasons != "") | missing, why)
                if name != "value":
                    folded = cells[name].astype("string").str.strip().str.casefold()
                    cells[name] = cells[name].mask(folded.isin(words).fillna(value=False), "")
        for name, (factor, shift) in self.factors.items():
            values = pd.to_numeric(cells[name], errors="coerce")
            cells[name] = cells[name].where(values.isna(), (values * factor + shift).round(9))
        return missing, reasons

    def _no_values(self, cells: dict[str, pd.Series[Any]]) -> pd.Series[bool]:
        column = cells.get("value")
        if column is None or (column.dtype != object and not isinstance(column.dtype, pd.StringDtype)):
            return pd.Series(False, index=next(iter(cells.values())).index)
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
        """Build timestamps from date and time or period, and split cells with both ends of an interval."""
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
            date, begin = (as_text(cells[name]) for name in (DATE.name, TIME_OF_DAY.name))
            day = date.str.replace(r"[ T]00:00(?::00)?$", "", regex=True)
            cells["timestamp"] = day + " " + begin
            if INTERVAL_END.name in cells:
                end = as_text(cells[INTERVAL_END.name])
                if end.str.match(_TIME_ONLY).all():
                    cells[INTERVAL_END.name] = day + " " + _end_of_day(_closed(begin, end))
        elif self.has_ends:
            texts = pa.array(as_text(cells["timestamp"]), type=pa.string(), from_pandas=True)
            parts = pc.extract_regex(texts, BOTH_ENDS)
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


def as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Cells as trimmed text; null is empty."""
    return column.astype("string").str.strip().fillna("").astype(object)


def _end_of_day(end: pd.Series[Any]) -> pd.Series[Any]:
    return end.str.replace(r"^0?0:00(:00)?$", "24:00", regex=True)


def _closed(begin: pd.Series[Any], end: pd.Series[Any]) -> pd.Series[Any]:
    """Exclusive ends: an inclusive one such as 00:59 becomes the minute after it."""
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


NO_PERIOD = "the day does not have so many periods (check --timezone)"


def melt(cells: pd.DataFrame, wide: list[str], offset: int) -> pd.DataFrame:
    """One row per reading, numbered from `offset` + 1, with `line`, `interval` and `value`."""
    others = [name for name in cells.columns if name not in wide]
    size = len(wide)
    repeated = cells[others].loc[cells.index.repeat(size)]
    melted = repeated.reset_index(drop=True)
    labels = [interval_label(name, last=position == size - 1) for position, name in enumerate(wide)]
    melted["interval"] = np.tile(np.array(labels, dtype=object), len(cells))
    melted["value"] = cells[wide].to_numpy(dtype=object).ravel()
    melted["line"] = repeated.index.to_numpy()
    melted.index = pd.RangeIndex(offset + 1, offset + 1 + len(melted))
    return melted


def start_of_periods(
    dates: pd.Series[Any], periods: pd.Series[Any], length: timedelta, zone: str, form: TimestampFormat
) -> tuple[pd.Series[Any], pd.Series[str]]:
    """Instants in UTC at which numbered periods of local days begin, and why a period does not exist.

    Days with a clock change have fewer or more periods: 46 or 50 half hours.
    """
    parsed = timestamps.parse(dates, form)
    days = parsed.wall.dt.floor("D")
    reason = parsed.reason.copy()
    midnight, _ = localize(days, zone)
    following, _ = localize(days + pd.Timedelta(days=1), zone)
    ordinals = pd.to_numeric(periods, errors="coerce").astype("float64")
    count = (following - midnight).dt.total_seconds() / length.total_seconds()
    is_number = ordinals.notna() & (ordinals % 1 == 0) & (ordinals >= 1)
    reason[(reason == "") & ~is_number] = "the period is not a number from 1"
    beyond = (reason == "") & (ordinals > count)
    reason[beyond] = NO_PERIOD
    start = midnight + pd.to_timedelta((ordinals - 1).where(is_number) * length.total_seconds(), unit="s")
    return start.where(reason == "").astype("datetime64[us, UTC]"), reason

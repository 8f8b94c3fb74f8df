"""Parsing of a file's timestamps (text, numbers or dates) to UTC or to local time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ai_hub.ingest.options import DateOrder, Epoch

if TYPE_CHECKING:
    from ai_hub.ingest.options import TimestampFormat

MISSING = "timestamp is missing"
UNREADABLE = "timestamp is not a possible date and time (see --timestamp-format)"
OUT_OF_RANGE = "timestamp is not between the years 1900 and 2200"
NUMBER = "timestamp is a bare number (say what it counts with --epoch s|ms|us|ns|excel)"
DAY_OR_MONTH = "the day or the month of the date could come first (say --date-format dmy or mdy)"

_ISO = (
    r"^(?P<wall>\d{4}-?\d{2}-?\d{2}(?:[T ]\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d+)?)?)?)?)"
    r" ?(?P<offset>Z|[+-]\d{2}(?::?\d{2})?)?$"
)
# Well inside the range of the types and of the time zone data.
_RANGE = (pd.Timestamp("1900-01-01"), pd.Timestamp("2200-01-01"))
_BARE_NUMBER = r"^[+-]?\d{9,}(?:\.\d+)?$"
_EXCEL_ZERO = pd.Timestamp("1899-12-30")
# Serial days from 1950 to 2200; smaller and larger numbers are something else.
_EXCEL_DAYS = (18_264, 109_575)
# As in 31.12.2026 24:00, 1/10/2026 1:30 PM, 01-Oct-2026 00:30, 25.10.2026 02:00A, 2A:15, 02:00 MESZ
_WRITTEN = (
    r"^(?:[A-Za-z]{2,3}\.?,? )?(?P<first>\d{1,4})(?P<mark>[-./ ])(?P<second>\d{1,2}|[A-Za-z]{3,9})[-./ ]"
    r"(?P<third>\d{4}|\d{1,2})"
    r"(?:(?:T|,? +|,)(?P<hour>\d{1,2})(?: ?(?P<turn>[AaBb])\b)?(?::(?P<minute>\d{2}))?"
    r"(?::(?P<seconds>\d{2}(?:[.,]\d+)?))?(?: ?(?P<later_turn>[AB])\b)?(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?)?"
    r"(?: ?\(?(?P<zone>Z|[A-Za-z]{3,5}|(?:UTC|GMT)?[+-](?:\d{1,2}:\d{2}|\d{4}|\d{1,2}))\)?)?$"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
#: English months, and German ones that differ in their first three letters.
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)} | {
    "mär": 3,
    "mrz": 3,
    "mai": 5,
    "okt": 10,
    "dez": 12,
}
_WITH_SUFFIX = r"^(?P<body>.*?\d) ?\(?(?P<zone>[A-Za-z]{3,5}|[AB])\)?$"


@dataclass
class ParsedTimestamps:
    """Parsed timestamps, by the index of their rows.

    `wall` is naive local time where `is_local`, else naive UTC.
    """

    wall: pd.Series[Any]
    is_local: pd.Series[bool]
    #: Why a row has none; empty where it has one.
    reason: pd.Series[str]
    #: Suffix of a local time: the abbreviation of its zone, or A or B in a repeated hour.
    suffixes: pd.Series[str] = field(default_factory=lambda: pd.Series(dtype=object))


def parse(column: pd.Series[Any], form: TimestampFormat) -> ParsedTimestamps:
    """Parse a column of text, numbers, dates or timestamps."""
    instants = _parse(column, form)
    if form.offset is not None:
        shift = pd.Timedelta(minutes=_offset_minutes(form.offset))
        instants.wall = instants.wall.where(~instants.is_local, instants.wall - shift)
        instants.is_local = pd.Series(data=False, index=instants.wall.index)
    return instants


def _parse(column: pd.Series[Any], form: TimestampFormat) -> ParsedTimestamps:
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return _instants(column.dt.tz_convert("UTC").dt.tz_localize(None), local=False)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _instants(column, local=True)
    if form.epoch is Epoch.EXCEL:
        days = pd.to_numeric(column, errors="coerce").astype("float64")
        seconds = (days.where(days.between(*_EXCEL_DAYS)) * 86_400).round()
        return _instants(_EXCEL_ZERO + pd.to_timedelta(seconds, unit="s"), local=True, was=column)
    if form.epoch is not None:
        numbers = pd.to_numeric(column, errors="coerce")
        unit: Any = form.epoch.value
        return _instants(pd.to_datetime(numbers, unit=unit, errors="coerce"), local=False, was=column)
    trimmed = pc.utf8_trim_whitespace(pa.array(column.astype("string"), type=pa.string()))
    text = pd.Series(trimmed.to_numpy(zero_copy_only=False), index=column.index)
    return _parse_strptime(text, form.strptime) if form.strptime else _parse_text(text, form)


def _parse_text(text: pd.Series[Any], form: TimestampFormat) -> ParsedTimestamps:
    instants = _parse_iso(text)
    other = instants.reason == UNREADABLE
    if not other.any():
        return instants
    written = _parse_written(text[other], form)
    wall = instants.wall.copy()
    wall[other] = written.wall
    instants.reason[other] = written.reason
    is_number = other & text.str.match(_BARE_NUMBER).fillna(value=False).astype(bool)
    instants.reason[is_number] = NUMBER
    instants.is_local.loc[other] = written.is_local.to_numpy(dtype=bool)
    return ParsedTimestamps(wall, instants.is_local, instants.reason, written.suffixes)


def _parse_written(text: pd.Series[Any], form: TimestampFormat) -> ParsedTimestamps:
    """Parse dates and times that are not ISO 8601, and their suffixes."""
    parts = pc.extract_regex(pa.array(text, type=pa.string()), _WRITTEN)
    fields = {
        name.name: pd.Series(parts.field(name.name).to_numpy(zero_copy_only=False), index=text.index)
        for name in parts.type
    }
    year, month, day, needs_order = _date(fields, form.order)
    hour, minute = _number(fields["hour"]).fillna(0), _number(fields["minute"]).fillna(0)
    second = _number(fields["seconds"].str.replace(",", ".")).fillna(0)
    half = fields["half"].str.upper().fillna("")
    twelve = (half != "") & hour.between(1, 12)
    hour = hour.where(~twelve, hour % 12 + 12 * (half == "P"))
    hour = hour.where(twelve | (half == ""))
    # 24:00 is the end of its day.
    possible = ((hour < 24) | ((hour == 24) & (minute == 0) & (second == 0))) & (minute < 60) & (second < 60)  # noqa: PLR2004 - hours of a day, minutes of an hour
    days = pd.DataFrame({"year": year, "month": month, "day": day})
    date: pd.Series[Any] = pd.to_datetime(days, errors="coerce")
    wall = date.where(possible).astype("datetime64[us]")
    wall += pd.to_timedelta((hour * 60 + minute).fillna(0) * 60 + second, unit="s").astype("timedelta64[us]")
    zone = fields["zone"].fillna("").str.upper()
    offsets = zone.str.replace("^(?:UTC|GMT)(?=[+-])", "", regex=True)
    offsets = offsets.str.replace(r"^([+-])(\d)(?=:|$)", r"\g<1>0\2", regex=True)
    fixed = offsets.str.match("[+-]|Z$")
    offset_minutes = {offset: _offset_minutes(offset) for offset in offsets[fixed].unique()}
    shift = pd.to_timedelta(offsets.map(offset_minutes).where(fixed, 0).astype("float64"), unit="min")
    fold = fields["turn"].fillna("") + fields["later_turn"].fillna("")
    instants = _instants(wall - shift.astype("timedelta64[us]"), local=~fixed.astype(bool), was=text)
    instants.reason[needs_order & (instants.reason == UNREADABLE)] = DAY_OR_MONTH
    suffixes = fold.str.upper().where(fold != "", zone.where(~fixed, ""))
    instants.suffixes = suffixes[(suffixes != "") & instants.wall.notna()]
    return instants


def _date(
    fields: dict[str, pd.Series[Any]], order: DateOrder | None
) -> tuple[pd.Series[Any], pd.Series[Any], pd.Series[Any], pd.Series[bool]]:
    """Year, month and day, and whether their order needs an option."""
    first, third = fields["first"].fillna(""), fields["third"].fillna("")
    named = fields["second"].str[:3].str.lower().map(_MONTH_NUMBERS)
    second = _number(fields["second"]).where(named.isna(), named)
    year_first = (first.str.len() == 4) | ((order is DateOrder.YEAR) & (third.str.len() < 3))  # noqa: PLR2004 - digits
    sure = year_first | (fields["mark"] == ".") | named.notna()
    month_first = (order is DateOrder.MONTH) & ~sure
    needs_order = ~sure & (order is None) & first.ne("")
    year = _number(first.where(year_first, third))
    year = year.where(year > 99, year + 2000).mask(needs_order)  # noqa: PLR2004 - years of two digits are of this century
    rest = _number(first).where(~year_first, _number(third))
    return year, second.where(~month_first, rest), rest.where(~month_first, second), needs_order


def date_orders(text: pd.Series[Any]) -> tuple[bool, bool, bool]:
    """Whether a column has dates of unknown order; dates with the day first; dates with the month first."""
    column = pa.array(text.astype("string"), type=pa.string(), from_pandas=True)
    parts = pc.extract_regex(
        pc.utf8_trim_whitespace(column), r"^(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-]\d{2,4}"
    ).drop_null()
    a, b = (pc.cast(parts.field(name), pa.int64()).to_numpy(zero_copy_only=False) for name in ("a", "b"))
    return len(parts) > 0, bool((a > 12).any()), bool((b > 12).any())  # noqa: PLR2004 - months of a year


def _number(text: pd.Series[Any]) -> pd.Series[Any]:
    return pd.to_numeric(text.where(text != ""), errors="coerce").astype("float64")


def _parse_strptime(text: pd.Series[Any], form: str) -> ParsedTimestamps:
    """Parse by a strptime format, also with 24:00 and a suffix: the abbreviation of a zone, A or B."""
    instants = _strptime(text, form)
    other = text[instants.reason == UNREADABLE]
    if other.empty:
        return instants
    parts = pc.extract_regex(pa.array(other, type=pa.string()), _WITH_SUFFIX)
    body, suffixes = (
        pd.Series(parts.field(name).to_numpy(zero_copy_only=False), index=other.index)
        for name in ("body", "zone")
    )
    body = body.where(body.notna() & (body != ""), other)
    late = body.str.contains(r"\b24:?00(?::?00)?$", regex=True)
    again = _strptime(body.str.replace(r"\b24(:?00(?::?00)?)$", r"00\1", regex=True), form)
    instants.wall[other.index] = again.wall + pd.to_timedelta(late.astype(int), unit="D")
    instants.reason[other.index] = again.reason
    instants.is_local.loc[other.index] = again.is_local.to_numpy(dtype=bool)
    suffixes = suffixes.fillna("").str.upper()
    instants.suffixes = suffixes[(suffixes != "") & again.wall.notna() & again.is_local]
    return instants


def _strptime(text: pd.Series[Any], form: str) -> ParsedTimestamps:
    aware = "%z" in form
    parsed = pd.to_datetime(text, format=form, utc=aware, errors="coerce")
    return _instants(parsed.dt.tz_localize(None) if aware else parsed, local=not aware, was=text)


def _parse_iso(text: pd.Series[Any]) -> ParsedTimestamps:
    """Parse ISO 8601. Offsets are parsed separately, because pandas would parse row by row."""
    parts = pc.extract_regex(pa.array(text, type=pa.string()), _ISO)
    wall = pd.Series(parts.field("wall").to_numpy(zero_copy_only=False), index=text.index)
    offsets = parts.field("offset").dictionary_encode()
    parsed = pd.to_datetime(wall, format="ISO8601", errors="coerce")
    codes = offsets.indices.fill_null(0).to_numpy(zero_copy_only=False)
    offset_texts = [str(offset) for offset in offsets.dictionary.to_pylist()] or [""]
    minutes = np.array([_offset_minutes(offset) for offset in offset_texts])[codes]
    local = pd.Series(np.array([offset == "" for offset in offset_texts])[codes], index=text.index)
    shift = pd.to_timedelta(pd.Series(minutes, index=text.index), unit="min").astype("timedelta64[us]")
    return _instants(_microseconds(parsed) - shift, local=local, was=text)


def _offset_minutes(offset: str) -> float:
    """Minutes east of UTC; NaN for an impossible offset, which makes the row unreadable."""
    digits = offset[1:].replace(":", "").ljust(4, "0")
    if offset in {"", "Z"}:
        return 0
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:  # noqa: PLR2004 - hours of a day and minutes of an hour
        return float("nan")
    return (hours * 60 + minutes) * (-1 if offset[0] == "-" else 1)


def _microseconds(wall: pd.Series[Any]) -> pd.Series[Any]:
    floored: pd.Series[Any] = wall.dt.floor("us").astype("datetime64[us]")
    return floored


def _instants(
    wall: pd.Series[Any], *, local: bool | pd.Series[bool], was: pd.Series[Any] | None = None
) -> ParsedTimestamps:
    wall = _microseconds(wall)
    reason = pd.Series("", index=wall.index, dtype=object)
    if (absent := wall.isna()).any():
        text = None if was is None else was[absent].astype("string").str.strip().fillna("")
        reason[absent] = MISSING if text is None else np.where(text == "", MISSING, UNREADABLE)
    if (outside := ~wall.between(*_RANGE) & ~absent).any():
        reason[outside] = OUT_OF_RANGE
        wall = wall.mask(outside)
    is_local = local if isinstance(local, pd.Series) else pd.Series(local, index=wall.index)
    return ParsedTimestamps(wall, is_local & wall.notna(), reason)

"""Timestamps of a file to UTC: ISO 8601 or a given format, with an offset or local, through clock changes.

A local time that occurs twice (clocks went back) is told by its order within the asset's series; one that
never occurred (clocks went forward) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ai_hub.ingest.terms import Epoch

MISSING = "timestamp is missing"
UNREADABLE = "timestamp is not a possible ISO 8601 date and time (see --timestamp-format)"
OUT_OF_RANGE = "timestamp is not between the years 1900 and 2200"
NUMBER = "timestamp is a bare number (say what it counts since 1970 with --epoch s|ms|us|ns)"
NONEXISTENT = "local time never occurred: clocks went forward (check --timezone, see --nonexistent)"
AMBIGUOUS = (
    "local time occurred twice: clocks went back, and the order of rows does not tell (see --ambiguous)"
)

_ISO = (
    r"^(?P<wall>\d{4}-?\d{2}-?\d{2}(?:[T ]\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d+)?)?)?)?)"
    r" ?(?P<offset>Z|[+-]\d{2}(?::?\d{2})?)?$"
)
# Dates that stay far from what the types and time zones can hold.
_RANGE = (pd.Timestamp("1900-01-01"), pd.Timestamp("2200-01-01"))
_BARE_NUMBER = r"^[+-]?\d{9,}(?:\.\d+)?$"


@dataclass(frozen=True)
class TimestampFormat:
    """How a file writes its timestamps; ISO 8601 when nothing is given."""

    strptime: str | None = None
    epoch: Epoch | None = None


@dataclass
class Instants:
    """Parsed timestamps, by the index of their rows.

    `wall` is a local time still without an offset where `is_local`; elsewhere it is UTC already.
    """

    wall: pd.Series[Any]
    is_local: pd.Series[bool]
    #: Why a row has none; empty where it has one.
    reason: pd.Series[str]


def parse(column: pd.Series[Any], form: TimestampFormat) -> Instants:
    """Read a column of text, numbers, dates or timestamps."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return _instants(column.dt.tz_convert("UTC").dt.tz_localize(None), local=False)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _instants(column, local=True)
    if form.epoch is not None:
        numbers = pd.to_numeric(column, errors="coerce")
        return _instants(
            pd.to_datetime(numbers, unit=form.epoch.value, errors="coerce"), local=False, was=column
        )
    trimmed = pc.utf8_trim_whitespace(pa.array(column.astype("string"), type=pa.string()))
    text = pd.Series(trimmed.to_numpy(zero_copy_only=False), index=column.index)
    return _parse_strptime(text, form.strptime) if form.strptime else _parse_iso(text)


def _parse_strptime(text: pd.Series[Any], form: str) -> Instants:
    aware = "%z" in form
    parsed = pd.to_datetime(text, format=form, utc=aware, errors="coerce")
    return _instants(parsed.dt.tz_localize(None) if aware else parsed, local=not aware, was=text)


def _parse_iso(text: pd.Series[Any]) -> Instants:
    """Offsets are split off first: parsing them row by row is what makes pandas slow."""
    parts = pc.extract_regex(pa.array(text, type=pa.string()), _ISO)
    wall = pd.Series(parts.field("wall").to_numpy(zero_copy_only=False), index=text.index)
    offsets = parts.field("offset").dictionary_encode()
    parsed = pd.to_datetime(wall, format="ISO8601", errors="coerce")
    codes = offsets.indices.fill_null(0).to_numpy(zero_copy_only=False)
    known = [str(offset) for offset in offsets.dictionary.to_pylist()] or [""]
    minutes = np.array([_offset_minutes(offset) for offset in known])[codes]
    local = pd.Series(np.array([offset == "" for offset in known])[codes], index=text.index)
    shift = pd.to_timedelta(pd.Series(minutes, index=text.index), unit="min").astype("timedelta64[us]")
    instants = _instants(_microseconds(parsed) - shift, local=local, was=text)
    unreadable = text[instants.reason == UNREADABLE]
    instants.reason[unreadable.index[unreadable.str.match(_BARE_NUMBER)]] = NUMBER
    return instants


def _offset_minutes(offset: str) -> float:
    """Minutes east of UTC; NaN (the row is unreadable) where there is no such offset."""
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
) -> Instants:
    wall = _microseconds(wall)
    reason = pd.Series("", index=wall.index, dtype=object)
    if (absent := wall.isna()).any():
        text = None if was is None else was[absent].astype("string").str.strip().fillna("")
        reason[absent] = MISSING if text is None else np.where(text == "", MISSING, UNREADABLE)
    if (outside := ~wall.between(*_RANGE) & ~absent).any():
        reason[outside] = OUT_OF_RANGE
        wall = wall.mask(outside)
    is_local = local if isinstance(local, pd.Series) else pd.Series(local, index=wall.index)
    return Instants(wall, is_local & wall.notna(), reason)


def infer_order(held: pd.DataFrame, descending: set[str]) -> pd.Series[str]:
    """For rows whose local time occurred twice: `earliest`, `latest`, or empty where order does not tell.

    The clock going back within one asset's rows separates the first pass through the hour from the second.
    A series with one reading an hour shows that as the same local time again; in a denser one the same time
    again is a duplicate.

    Args:
        held: `asset_id`, naive `wall` and instant of the clock `change`, in the order of the file.
        descending: Assets whose rows run from new to old.
    """
    answer = pd.Series("", index=held.index, dtype=object)
    for (asset, _), rows in held["wall"].groupby([held["asset_id"], held["change"]], sort=False):
        ordered = rows[::-1] if asset in descending else rows
        steps = ordered.diff().dt.total_seconds().to_numpy()
        back = steps <= 0 if (ordered == ordered.iloc[0]).all() else steps < 0
        if back.sum() == 1:
            answer.loc[ordered.index] = np.where(np.cumsum(back) == 0, "earliest", "latest")
    return answer

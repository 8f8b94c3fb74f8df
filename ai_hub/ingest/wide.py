"""Files with one row a day and a column for each interval of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ai_hub.ingest import timestamps
from ai_hub.ingest.zones import localize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from ai_hub.ingest.timestamps import TimestampFormat

_TIME = re.compile(r"^\s*(\d{1,2}):(\d{2})(?::00)?\s*$")
_PERIOD = re.compile(r"(?i)^\s*(?:settlement period|period|sp|hh|p)?[ _]?0*(\d{1,3})\s*$")
NO_PERIOD = "the day does not have so many periods (check --timezone)"
#: Fewer columns than the hours of the shortest day are no day.
_FEWEST = 23


def is_wide(names: Sequence[str]) -> list[str]:
    """Columns that are times of a day or its periods counted from 1, in order; none where there are few."""
    for pattern in (_TIME, _PERIOD):
        found = [name for name in names if pattern.match(name)]
        if len(found) < _FEWEST:
            continue
        if pattern is _PERIOD and [int(_number(name)) for name in found] != list(range(1, len(found) + 1)):
            continue
        return found
    return []


def _number(name: str) -> str:
    found = _PERIOD.match(name)
    return found[1] if found else "0"


def melt(cells: pd.DataFrame, wide: list[str], offset: int) -> pd.DataFrame:
    """One row a reading, numbered after `offset`, with its `line`, `interval` and `value`."""
    others = [name for name in cells.columns if name not in wide]
    size = len(wide)
    repeated = cells[others].loc[cells.index.repeat(size)]
    melted = repeated.reset_index(drop=True)
    labels = [_label(name, last=place == size - 1) for place, name in enumerate(wide)]
    melted["interval"] = np.tile(np.array(labels, dtype=object), len(cells))
    melted["value"] = cells[wide].to_numpy(dtype=object).ravel()
    melted["line"] = repeated.index.to_numpy()
    melted.index = pd.RangeIndex(offset + 1, offset + 1 + len(melted))
    return melted


def _label(name: str, *, last: bool) -> str:
    """Time of day, the last one not at midnight before it; or the number of the period."""
    if found := _TIME.match(name):
        midnight = last and int(found[1]) == 0 and int(found[2]) == 0
        return "24:00" if midnight else f"{int(found[1]):02}:{found[2]}"
    return _number(name)


def start_of_periods(
    dates: pd.Series[Any], periods: pd.Series[Any], length: timedelta, zone: str, form: TimestampFormat
) -> tuple[pd.Series[Any], pd.Series[str]]:
    """Instants at which numbered periods of local days begin, and why one does not exist.

    Days on which the clock changes have fewer or more periods: 46 or 50 half hours.
    """
    parsed = timestamps.parse(dates, form)
    days = parsed.wall.dt.floor("D")
    reason = parsed.reason.copy()
    midnight, _ = localize(days, zone)
    following, _ = localize(days + pd.Timedelta(days=1), zone)
    numbers = pd.to_numeric(periods, errors="coerce").astype("float64")
    count = (following - midnight).dt.total_seconds() / length.total_seconds()
    whole = numbers.notna() & (numbers % 1 == 0) & (numbers >= 1)
    reason[(reason == "") & ~whole] = "the period is not a number from 1"
    beyond = (reason == "") & (numbers > count)
    reason[beyond] = NO_PERIOD
    start = midnight + pd.to_timedelta((numbers - 1).where(whole) * length.total_seconds(), unit="s")
    return start.where(reason == "").astype("datetime64[us, UTC]"), reason

"""Clock changes of time zones as arrays, and local times to instants; equal to zoneinfo's."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from ai_hub.times import SECOND

if TYPE_CHECKING:
    from ai_hub.times import Flags, Micros

#: No clock change of the tz database is undone within this time.
_PROBE_SECONDS = 6 * 3600
#: Further from UTC than any clock, and more than the largest change (a day).
_FAR = 27 * 3600 * SECOND
_NEVER = np.iinfo(np.int64).max // 2


class Transitions(NamedTuple):
    """Changes of a zone's offset, in order; all in microseconds."""

    at: Micros
    #: Offset until then.
    before: Micros
    #: How far the clock went forward.
    delta: Micros


class LocalTimes(NamedTuple):
    """The instants of local times, in microseconds since 1970."""

    #: Earliest and latest instant of each; 0 where it never occurred.
    earliest: Micros
    latest: Micros
    #: Whether the local time occurred.
    exists: Flags


#: Abbreviations with one offset (in minutes) wherever they are used.
_NAMED = (
    {"UTC": 0, "GMT": 0, "WET": 0, "CET": 60, "EET": 120, "WEST": 60, "CEST": 120, "EEST": 180}
    | {"EDT": -240, "MDT": -360, "PDT": -420, "AKDT": -480, "HST": -600}
    | {"AEST": 600, "AEDT": 660, "ACST": 570, "ACDT": 630, "AWST": 480, "NZST": 720, "NZDT": 780}
    | {"JST": 540, "KST": 540, "SAST": 120, "MSK": 180}
)
_GERMAN = {
    "MEZ": "CET",
    "MESZ": "CEST",
    "WEZ": "WET",
    "WESZ": "WEST",
    "OEZ": "EET",
    "OESZ": "EEST",
    "Z": "UTC",
}


@cache
def named_offset(name: str, zone: str) -> int | None:
    """Minutes east of UTC of a zone's abbreviation, such as CEST, used in `zone`.

    None where `zone` does not use it and it means several offsets elsewhere, as CST does.
    """
    name = _GERMAN.get(name.upper(), name.upper())
    changes = transitions(zone, 1990, 2040)
    for second in (at // SECOND + step for at in changes.at.tolist() or [0] for step in (-1, 0)):
        local = datetime.fromtimestamp(second, _zone(zone))
        if local.tzname() == name:
            return _offset(zone, second) // 60
    return _NAMED.get(name)


@cache
def transitions(zone: str, first_year: int, last_year: int) -> Transitions:
    """Changes of a zone's offset in these years and a day around them."""
    years = [_year_transitions(zone, year) for year in range(first_year, last_year + 1)]
    rows = sorted({row for year in years for row in year})
    at, before, after = np.array(rows, dtype=np.int64).reshape(-1, 3).T * SECOND
    return Transitions(at, before, after - before)


def localize(wall: pd.Series[Any], zone: str, *, ends: bool = False) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Earliest and latest instant of each local time, in UTC; NaT where it never occurred.

    With `ends` (of intervals) the local time of a clock change is also that change: 02:00 where clocks go
    forward from 02:00 to 03:00, and 03:00 where they go back from there.
    """
    present = wall.notna()
    local = wall.where(present, pd.Timestamp(0)).astype("datetime64[us]").astype("int64")
    times = local_times(local, zone)
    if ends and len(local):
        times = _with_interval_ends(times, np.asarray(local, dtype=np.int64), zone)
    bounds = (
        pd.Series(instants.astype("datetime64[us]"), index=wall.index)
        .where(present & times.exists)
        .dt.tz_localize("UTC")
        for instants in (times.earliest, times.latest)
    )
    earliest, latest = bounds
    return earliest.copy(), latest.copy()


def _with_interval_ends(times: LocalTimes, local: Micros, zone: str) -> LocalTimes:
    first, last = (np.datetime64(int(edge), "us").item().year for edge in (local.min(), local.max()))
    changes = transitions(zone, first - 1, last + 1)
    earliest, latest, exists = times.earliest.copy(), times.latest.copy(), times.exists.copy()
    for at, before, delta in zip(*(column.tolist() for column in changes), strict=True):
        here = local == at + before
        earliest[here] = at
        if delta > 0:
            latest[here], exists[here] = at, True
    return LocalTimes(earliest, latest, exists)


def next_change(instants: pd.Series[Any], zone: str) -> Micros:
    """First clock change after each instant, in microseconds since 1970."""
    if not len(instants):
        return np.empty(0, dtype=np.int64)
    changes = transitions(zone, instants.min().year - 1, instants.max().year + 1)
    at = instants.astype("datetime64[us, UTC]").astype("int64").to_numpy()
    following = np.searchsorted(changes.at, at, side="right")
    instants_after: Micros = np.append(changes.at, _NEVER)[following]
    return instants_after


def local_times(wall: pd.Series[int], zone: str) -> LocalTimes:
    """Instants of local times, which are microseconds since 1970 on the local clock."""
    local: Micros = np.asarray(wall, dtype=np.int64)
    if not len(local):
        return LocalTimes(local, local, np.zeros(0, dtype=bool))
    first, last = (np.datetime64(int(edge), "us").item().year for edge in (local.min(), local.max()))
    changes = transitions(zone, first - 1, last + 1)
    if not len(changes.at):
        instants = local - _offset(zone, int(local[0]) // SECOND) * SECOND
        return LocalTimes(instants, instants, np.ones(len(local), dtype=bool))
    offsets = np.append(changes.before, changes.before[-1] + changes.delta[-1])
    following = np.searchsorted(changes.at, local - _FAR)
    earliest = local - offsets[following]
    latest = earliest.copy()
    exists = np.ones(len(local), dtype=bool)
    near = np.flatnonzero(following != np.searchsorted(changes.at, local + _FAR))
    if len(near):
        starts = np.append(-_NEVER, changes.at)
        ends = np.append(changes.at, _NEVER)
        candidates = following[near, None] + np.arange(int(_most_between(changes.at)) + 1)
        valid = candidates < len(starts)
        candidates = np.minimum(candidates, len(starts) - 1)
        instants = local[near, None] - offsets[candidates]
        valid &= (starts[candidates] <= instants) & (instants < ends[candidates])
        exists[near] = valid.any(axis=1)
        earliest[near] = np.where(valid, instants, _NEVER).min(axis=1)
        latest[near] = np.where(valid, instants, -_NEVER).max(axis=1)
        earliest[~exists] = latest[~exists] = 0
    return LocalTimes(earliest, latest, exists)


def _most_between(at: Micros) -> int:
    """Largest number of changes within `2 * _FAR`."""
    return int((np.searchsorted(at, at + 2 * _FAR, side="right") - np.arange(len(at))).max())


@cache
def _year_transitions(zone: str, year: int) -> list[tuple[int, int, int]]:
    """Second of each change of offset, and the offsets before and after it."""
    start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) - 86_400
    stop = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp()) + 86_400
    changes = []
    before = _offset(zone, start)
    for probe in range(start + _PROBE_SECONDS, stop + 1, _PROBE_SECONDS):
        after = _offset(zone, probe)
        if after != before:
            low, high = probe - _PROBE_SECONDS, probe
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            changes.append((high, before, after))
            before = after
    return changes


def _offset(zone: str, second: int) -> int:
    """Seconds east of UTC at a second since 1970."""
    offset = datetime.fromtimestamp(second, _zone(zone)).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)

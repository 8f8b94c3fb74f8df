"""Detection of readings that are probably wrong, each detector a function of one series.

A series is times (µs since 1970, ascending) and values. What a detector needs to know of the past is within
`CONTEXT` before, so that a part of a series can be judged as the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from ai_hub.ingest.detection import FEWEST_STUCK
from ai_hub.ingest.findings import Finding
from ai_hub.ingest.options import AssetKind, FindingKind
from ai_hub.times import SECOND, Flags, Micros, from_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Values = npt.NDArray[np.float64]
    #: Elevation of the sun in degrees at these times.
    Elevation = Callable[[Micros], Values]

_HOUR: Final = 3_600 * SECOND
_DAY: Final = 24 * _HOUR
#: Days before a reading that tell what is usual.
_HISTORY: Final = 28
#: Fewer tell nothing.
_FEWEST_DAYS: Final = 7
#: How far a reading may change what is found elsewhere, and how far back a part must be read to judge it.
REACH: Final = timedelta(days=14)
CONTEXT: Final = timedelta(days=_HISTORY)
#: Wrong readings less than so far apart are one finding.
_JOIN: Final = 3 * _HOUR


@dataclass(frozen=True)
class Meter:
    """What is known of an asset."""

    kind: str
    timezone: str
    #: Whether it also feeds in, so that negative readings are right.
    is_net: bool = False
    elevation: Elevation | None = None


class _Days(NamedTuple):
    """Readings by local day: the number of each reading's day, from 0, and its hour of the day."""

    day: npt.NDArray[np.int64]
    hour: npt.NDArray[np.int64]
    total: int


def suspects(times: Micros, values: Values, meter: Meter, *, clock: bool = True) -> list[Finding]:
    """All findings of a series, by time. What one detector has found is no evidence for the next.

    Args:
        times: µs since 1970, ascending.
        values: The readings.
        meter: What is known of the asset.
        clock: Whether to look for clock shifts, too, which costs several times what all others cost.
    """
    times, values = _finite(times, values)
    if not len(times):
        return []
    zone = _zone_of_profile(meter)
    days = _days(times, zone)
    codes = error_codes(values, days)
    findings = list(_of_runs(FindingKind.ERROR_CODE, times, values, codes))
    times, values, days = times[~codes], values[~codes], _only(days, ~codes)
    if not len(times):
        return findings
    factors = unit_factors(values, days)
    findings += _of_levels(times, factors)
    values = values / factors
    findings += copied_days(times, values)
    wrong = np.zeros(len(values), dtype=bool)
    if meter.kind == AssetKind.SOLAR and meter.elevation is not None:
        wrong = midnight_sun(times, values, days, meter.elevation)
        findings += _of_runs(FindingKind.MIDNIGHT_SUN, times, values, wrong)
    if not meter.is_net and meter.kind != AssetKind.WEATHER:
        negative = negative_consumption(values, days)
        findings += _of_runs(FindingKind.NEGATIVE, times, values, negative)
        wrong |= negative
    jumps = ramps(times, values, days)
    findings += [
        _short_jump(finding, values[~jumps])
        for finding in _of_runs(FindingKind.RAMP, times, values, jumps & ~wrong)
    ]
    if clock:
        findings += _clock_findings(times, values, ~(wrong | jumps), zone)
    return sorted(findings, key=lambda finding: (finding.first, finding.kind))


def _finite(times: Micros, values: Values) -> tuple[Micros, Values]:
    """Without what only SQL can have written, and no finding can show."""
    finite = np.isfinite(values)
    return times[finite], values[finite]


def _zone_of_profile(meter: Meter) -> str:
    """The sun does not follow daylight saving time."""
    if meter.kind != AssetKind.SOLAR:
        return meter.timezone
    zone = ZoneInfo(meter.timezone)
    offsets = [datetime(2000, month, 1, tzinfo=zone).utcoffset() or timedelta(0) for month in (1, 7)]
    return f"Etc/GMT{-(min(offsets) // timedelta(hours=1)):+d}"


def _days(times: Micros, zone: str) -> _Days:
    local = pd.DatetimeIndex(times.view("M8[us]"), tz="UTC").tz_convert(zone).tz_localize(None)
    hours = local.as_unit("us").asi8 // _HOUR
    day = hours // 24
    return _Days(day - day[0], hours % 24, int(day[-1] - day[0]) + 1)


def _only(days: _Days, flags: Flags) -> _Days:
    return _Days(days.day[flags], days.hour[flags], days.total)


# --- error codes ---

#: What loggers and meters write in place of a value: the largest numbers of 15, 16, 24, 31 and 32 bits
#: (4294967.295: https://github.com/n3rgy/data/issues/11), and nines.
_CODES: Final = np.array(
    sorted(
        {2**bits - down for bits in (15, 16, 24, 31, 32) for down in (0, 1)}
        | {10**digits - 1 for digits in range(4, 13)}
    ),
    dtype=np.float64,
)


_FAR: Final = 10


def error_codes(values: Values, days: _Days) -> Flags:
    """Readings that are a code with any decimal point, and do not fit to those next to them.

    Another reading may have the same digits: a code is farther from the last good one than readings usually
    move, or negative where nothing else is. Where that is not known yet, ten times the largest other reading.
    """
    size = np.abs(values)
    is_code = np.zeros(len(values), dtype=bool)
    for decimals in range(7):
        scaled = size * 10.0**decimals
        at = np.searchsorted(_CODES, scaled * (1 - 1e-12)).clip(max=len(_CODES) - 1)
        is_code |= np.abs(scaled - _CODES[at]) <= 1e-9 * scaled
    is_code &= size > 0
    if not is_code.any():
        return is_code
    others = _only(days, ~is_code)
    good = np.flatnonzero(~is_code)
    if not len(good):
        return np.zeros(len(values), dtype=bool)
    last_good = good[np.maximum(np.searchsorted(good, np.arange(len(values))) - 1, 0)]
    change = _largest_changes(values[good], others, 0.5)[days.day]
    never_negative = not (values[good] < 0).any()
    is_far = np.where(
        change > 0, np.abs(values - values[last_good]) > change, size > _FAR * np.abs(values[good]).max()
    )
    return is_code & (is_far | ((values < 0) & never_negative))


def _step(times: Micros) -> int:
    """The usual time between two readings; 0 where there is none."""
    return int(np.median(np.diff(times))) if len(times) > 1 else 0


def _largest_changes(values: Values, days: _Days, quantile: float) -> Values:
    """A quantile, over the weeks around each day, of the largest change of a day between two readings."""
    highest = np.zeros(days.total)
    np.fmax.at(highest, days.day[1:], np.abs(np.diff(values)))
    around = pd.Series(highest).rolling(2 * _HISTORY + 1, center=True, min_periods=_FEWEST_DAYS)
    return around.quantile(quantile).to_numpy()


def _level(values: Values, days: _Days) -> Values:
    """Median of the daily maxima of the weeks around each day: what is usual."""
    highest = np.full(days.total, np.nan)
    np.fmax.at(highest, days.day, np.abs(values))
    medians = pd.Series(highest).rolling(2 * _HISTORY + 1, center=True, min_periods=1).median()
    return medians.fillna(np.inf).to_numpy()


# --- unit jumps ---

#: Exponents of ten that a wrong unit multiplies with: Wh for kWh, kWh for MWh, cents.
_EXPONENTS: Final = (2, 3, -2, -3)
#: In powers of ten: how far quartiles of a day may be from the factor, a factor of two.
_NEAR: Final = 0.3
#: So many times the usual change from day to day; heating changes tenfold in autumn.
_DAILY_CHANGES: Final = 6


def unit_factors(values: Values, days: _Days) -> Values:
    """The factor that each reading seems to have been multiplied with: 1, 100, 1000 or one over them."""
    factors = np.ones(len(values))
    used = np.flatnonzero(values != 0)
    if not len(used):
        return factors
    logs = np.log10(np.abs(values[used]))
    starts = np.searchsorted(days.day[used], np.arange(days.total + 1))
    quartiles = _quartiles(logs, days.day[used], days.total)
    exponents = np.zeros(len(used))
    state, first_day, corrected = 0, 0, quartiles.copy()
    while (change := _next_level(quartiles, corrected, state, first_day)) is not None:
        day, level = change
        first = starts[day]
        if level is not None:
            # a part of the day before may have it, too
            part = slice(starts[max(day - 1, 0)], starts[day + 1])
            away = logs[part] - np.nanmedian(corrected[max(0, day - _HISTORY) : day, 1])
            gain = np.abs(away - state) - np.abs(away - level)
            first = part.start + int(np.argmax(np.cumsum(gain[::-1])[::-1]))
        state, first_day = level or 0, day + 1
        exponents[first:] = state
        corrected[day:] = quartiles[day:] - state
    factors[used] = 10.0**exponents
    # zeros between two readings are of the same unit
    if len(used) < len(values):
        known = np.zeros(len(values), dtype=np.int64)
        known[used] = np.arange(len(used))
        factors = factors[used][np.maximum.accumulate(known)]
    return factors


def _quartiles(values: Values, day: npt.NDArray[np.int64], total: int) -> Values:
    """Quartiles of each day, by linear interpolation; NaN where a day has too few values."""
    ordered = values[np.lexsort((values, day))]
    starts = np.searchsorted(day, np.arange(total + 1))
    counts = np.diff(starts)
    quartiles = np.full((total, 3), np.nan)
    enough = counts >= FEWEST_STUCK
    places = starts[:-1][enough, None] + (counts[enough, None] - 1) * np.array([0.25, 0.5, 0.75])
    below, above = (ordered[to_whole(places).astype(np.int64)] for to_whole in (np.floor, np.ceil))
    quartiles[enough] = below + places % 1 * (above - below)
    return quartiles


def _next_level(
    quartiles: Values, corrected: Values, state: int, first_day: int
) -> tuple[int, int | None] | None:
    """The first day from `first_day` on with another exponent than `state`; None where nothing tells it."""
    history = pd.DataFrame(corrected).rolling(_HISTORY, min_periods=_FEWEST_DAYS)
    usual = history.median().shift().to_numpy()
    moved = quartiles - usual
    levels = np.array((0, *_EXPONENTS))
    nearest = levels[np.abs(np.nan_to_num(moved[:, 1:2]) - levels).argmin(axis=1)]
    is_near = (np.abs(moved - nearest[:, None]) <= (2 * _NEAR, _NEAR, 2 * _NEAR)).all(axis=1)
    # what is usual was forgotten in an outage
    is_lost = np.isnan(usual[:, 1]) & (state != 0)
    for day in first_day + np.flatnonzero((is_near & (nearest != state) | is_lost)[first_day:]):
        if is_lost[day]:
            return int(day), None
        past = corrected[max(0, day - _HISTORY) : day, 1]
        spread = float(np.nanmedian(np.abs(past - usual[day, 1])))
        if abs(nearest[day] - state) >= _DAILY_CHANGES * spread:
            return int(day), int(nearest[day])
    return None


def _of_levels(times: Micros, factors: Values) -> Iterator[Finding]:
    for start, end in _stretches(factors):
        if factors[start] != 1:
            yield _finding(
                FindingKind.UNIT_JUMP,
                times[start],
                times[end - 1],
                readings=int(end - start),
                factor=float(factors[start]),
            )


# --- copied days ---

#: A day with fewer different values may repeat by chance.
_FEWEST_VALUES: Final = 8
#: Where more of the series repeats, it follows a schedule.
_SCHEDULED: Final = 1 / 3
_MULTIPLIER: Final = 0x9E3779B97F4A7C15


def copied_days(times: Micros, values: Values) -> list[Finding]:
    """Days, and longer, whose readings are all those of an earlier time."""
    step = _step(times)
    size = _DAY // step if step else 0
    if size < _FEWEST_VALUES or len(values) < 2 * size:
        return []
    bits = (values + 0.0).view(np.uint64)
    mixed = bits ^ (bits >> np.uint64(31))
    powers = np.full(len(values) + 1, _MULTIPLIER, dtype=np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    inverse = np.full(len(values) + 1, pow(_MULTIPLIER, -1, 2**64), dtype=np.uint64)
    inverse[0] = 1
    inverse = np.multiply.accumulate(inverse)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed * inverse[:-1])])
    windows = len(values) - size + 1
    hashes = (sums[size:] - sums[:windows]) * powers[:windows]
    _, firsts, which = np.unique(hashes, return_index=True, return_inverse=True)
    sources = firsts[which]
    starts = np.arange(windows)
    spans = times[size - 1 :] - times[:windows]
    changes = np.concatenate([[0], np.cumsum(values[1:] != values[:-1])])
    repeated = np.flatnonzero(
        (starts - sources >= size)
        & (spans == spans[sources])
        & (changes[size - 1 :] - changes[:windows] >= _FEWEST_VALUES)
    )
    covered = np.zeros(len(values) + 1, dtype=np.int64)
    np.add.at(covered, repeated, 1)
    np.add.at(covered, repeated + size, -1)
    if np.count_nonzero(np.cumsum(covered)) > _SCHEDULED * len(values):
        return []
    repeated = np.array(
        [at for at in repeated if len(np.unique(values[at : at + size])) >= _FEWEST_VALUES], dtype=np.int64
    )
    if not len(repeated):
        return []
    cuts = np.flatnonzero((np.diff(repeated) > 1) | (np.diff(sources[repeated]) != 1)) + 1
    findings: list[Finding] = []
    for run in np.split(repeated, cuts):
        first, last = times[run[0]], times[run[-1] + size - 1]
        if findings and from_micros(first) <= findings[-1].last:
            continue  # the same days repeat several earlier ones
        findings.append(
            _finding(
                FindingKind.COPIED,
                first,
                last,
                readings=int(run[-1] - run[0]) + size,
                copy_of=from_micros(times[sources[run[0]]]).isoformat(),
            )
        )
    return findings


# --- midnight sun, negative consumption ---

#: Below it in degrees, civil twilight has ended and a photovoltaic plant yields nothing.
_DARK: Final = -6
#: Share of the usual daily maximum that inverters may draw or show at night.
_NIGHT_SHARE: Final = 0.02


def midnight_sun(times: Micros, values: Values, days: _Days, elevation: Elevation) -> Flags:
    """Solar readings that begin and end while it is dark."""
    step = _step(times)
    flags: Flags = values > _NIGHT_SHARE * _level(values, days)[days.day]
    at = np.flatnonzero(flags)
    if len(at):
        flags[at] = elevation(times[at]) < _DARK
        at = np.flatnonzero(flags)
        flags[at] = elevation(times[at] + step) < _DARK
    return flags


#: A meter with negative readings on more days of the weeks around feeds in.
_NEGATIVE_DAYS: Final = 5


def negative_consumption(values: Values, days: _Days) -> Flags:
    """Negative readings of a meter that has hardly any."""
    negative: Flags = values < 0
    by_day = np.zeros(days.total)
    by_day[days.day[negative]] = 1
    near = pd.Series(by_day).rolling(2 * _HISTORY + 1, center=True, min_periods=1).sum().to_numpy()
    return negative & (near[days.day] <= _NEGATIVE_DAYS)


# --- ramps ---

#: A change from one reading to the next, as a multiple of the usual largest, and of the usual daily maximum.
_USUAL_CHANGES: Final = 4
_RAMP_LEVELS: Final = 2
#: What does not come back sooner is another level, not a spike.
_LONGEST_SPIKE: Final = _DAY


def ramps(times: Micros, values: Values, days: _Days) -> Flags:
    """Readings between an implausible change and the one back; one alone where none comes within a day."""
    steps = np.diff(values, prepend=values[0])
    usual = _largest_changes(values, days, 0.9)
    limit = np.maximum(_USUAL_CHANGES * usual, _RAMP_LEVELS * _level(values, days))
    # an asset that is rarely used has no usual change
    limit[np.isnan(usual) | (limit == 0)] = np.inf
    flags = np.zeros(len(values), dtype=bool)
    edges = np.flatnonzero(np.abs(steps) > limit[days.day])
    position = 0
    while position < len(edges):
        start = edges[position]
        back = next(
            (
                edge
                for edge in edges[position + 1 :]
                if times[edge] - times[start] <= _LONGEST_SPIKE and steps[edge] * steps[start] < 0
            ),
            None,
        )
        end = start + 1 if back is None else back
        flags[start:end] = True
        position = int(np.searchsorted(edges, end, side="right" if back is not None else "left"))
    return flags


#: In readings; and how far its middle may be from the factor, as hours of the day differ.
_SHORTEST_JUMP: Final = 3
_NEAR_BY_HOURS: Final = 0.5


def _short_jump(finding: Finding, usual: Values) -> Finding:
    """A spike of several readings that are about a hundred or a thousand times the usual: another unit."""
    others = np.abs(usual[usual != 0])
    if finding.detail["readings"] < _SHORTEST_JUMP or not len(others):
        return finding
    moved = np.log10(abs(finding.detail["typical"]) / np.median(others))
    for exponent in _EXPONENTS:
        if abs(moved - exponent) <= _NEAR_BY_HOURS:
            detail = {"readings": finding.detail["readings"], "factor": 10.0**exponent}
            return Finding(FindingKind.UNIT_JUMP, finding.first, finding.last, detail)
    return finding


# --- clock shifts ---


class _Evidence(NamedTuple):
    """What a clock shift needs: days after it, likeness to the usual profile, and difference that is left."""

    days: int
    like: float
    left: float


#: A large shift shows within days, one of an hour or of a home takes longer. By measurement (docs/ingest.md).
_EVIDENCE: Final = (_Evidence(5, 0.95, 0.3), _Evidence(14, 0.8, 0.7), _Evidence(28, 0.8, 0.7))
#: Mornings and evenings change places with the seasons: half a day needs to be more alike.
_LIKE_HALF_A_DAY: Final = 0.97
_NEARLY_HALF_A_DAY: Final = 9
#: Share of the days after a shift that each speak for it, and Student's t of how much they do.
_AGREEING: Final = 0.75
_LEAST_T: Final = 3.5
_TURNED: Final = (np.arange(24)[None, :] - np.arange(24)[:, None]) % 24


def clock_shifts(values: Values, days: _Days) -> npt.NDArray[np.int64]:
    """By how many hours each local day's profile is later than those of the same weekdays before."""
    profiles = _profiles(values, days)
    corrected = profiles.copy()
    shifts = np.zeros(days.total, dtype=np.int64)
    for day in range(14, days.total):
        state = int(shifts[day - 1])
        past = corrected[max(0, day - _HISTORY) : day]
        if np.count_nonzero(~np.isnan(past[:, 0])) < _FEWEST_DAYS:
            state = 0  # what is usual was forgotten in an outage
        shifts[day] = state
        usual = _usual(past)
        for evidence in _EVIDENCE:
            found = _new_shift(profiles[day : day + evidence.days], usual, state, evidence)
            if found is not None:
                shifts[day] = found
                break
        corrected[day] = np.roll(profiles[day], -shifts[day])
    return shifts


def _new_shift(measured: Values, usual: Values, state: int, evidence: _Evidence) -> int | None:
    """The shift that begins with the first of these days; None: that of the day before goes on."""
    usual = usual[np.arange(len(measured)) % 7]
    present = ~(np.isnan(measured[:, 0]) | np.isnan(usual[:, 0]))
    if np.count_nonzero(present) < evidence.days - 1 - evidence.days // 7:
        return None
    measured, usual = measured[present], usual[present]
    like = _likeness(measured, usual)
    best = int(like.argmax())
    shift = (best + 12) % 24 - 12
    if shift == state or np.isnan(like).any():
        return None
    gains = (measured * (usual[:, _TURNED[best]] - usual[:, _TURNED[state % 24]])).sum(axis=1)
    # back to the usual time takes less
    if shift != 0 and (
        like[best] < (_LIKE_HALF_A_DAY if abs(shift) > _NEARLY_HALF_A_DAY else evidence.like)
        or 1 - like[best] > evidence.left * (1 - like[state % 24])
        or gains.mean() < _LEAST_T * gains.std(ddof=1) / np.sqrt(len(gains))
    ):
        return None
    # it begins where every later day speaks for it
    is_first = gains[0] > 0 and np.argmax(np.cumsum(gains[::-1])[::-1]) == 0
    return shift if is_first and np.mean(gains > 0) >= _AGREEING else None


def _likeness(measured: Values, usual: Values) -> Values:
    """Correlation of the mean profile with the usual one, that many hours later; NaN where there is none."""
    mean, turned = measured.mean(axis=0), usual.mean(axis=0)[_TURNED]
    norm = np.sqrt((mean**2).sum() * (turned[0] ** 2).sum())
    likeness: Values = turned @ mean / norm if norm > 0 else np.full(24, np.nan)
    return likeness


#: A day that lacks more has no profile.
_MISSING_HOURS: Final = 2


def _profiles(values: Values, days: _Days) -> Values:
    """Ranks of each day's hours, by their means, around zero; NaN where hours of it are missing.

    Ranks, as the few peaks of a home would decide alone.
    """
    cells = days.day * 24 + days.hour
    counts = np.bincount(cells, minlength=days.total * 24)
    sums = np.bincount(cells, weights=values, minlength=days.total * 24)
    with np.errstate(invalid="ignore"):
        means = pd.Series(sums / counts).interpolate(limit=_MISSING_HOURS, limit_area="inside").to_numpy()
    profiles = means.reshape(days.total, 24)
    missing = (counts.reshape(days.total, 24) == 0).sum(axis=1) > _MISSING_HOURS
    profiles[missing | np.isnan(profiles).any(axis=1)] = np.nan
    ranks: Values = pd.DataFrame(profiles).rank(axis=1).to_numpy() - 12.5
    return ranks


def _usual(past: Values) -> Values:
    """Mean profiles of up to four weeks by weekday, from that of the day after them on; NaN for none."""
    days = np.full((_HISTORY, 24), np.nan)
    days[_HISTORY - len(past) :] = past
    weeks = days.reshape(-1, 7, 24)
    with np.errstate(invalid="ignore"):
        usual: Values = np.nansum(weeks, axis=0) / (~np.isnan(weeks)).sum(axis=0)
    return usual


def _of_shifts(times: Micros, shifts: npt.NDArray[np.int64], days: _Days) -> Iterator[Finding]:
    for start, end in _stretches(shifts):
        within = np.flatnonzero((days.day >= start) & (days.day < end))
        if shifts[start] and len(within):
            yield _finding(
                FindingKind.CLOCK_SHIFT, times[within[0]], times[within[-1]], hours=int(shifts[start])
            )


#: Where clocks change, as almost everywhere in Europe, and in North America.
_CHANGING: Final = ("Europe/Berlin", "America/New_York")


def _clock_findings(times: Micros, values: Values, good: Flags, zone: str) -> list[Finding]:
    """Clock shifts of the good readings, in local time.

    The load of an asset in UTC may follow local time, so that the profile moves by an hour at each change of
    clocks: the time is taken in which its profile is off for the shortest.
    """
    findings: list[list[Finding]] = []
    for each in (zone, *_CHANGING):
        days = _days(times, each)
        findings.append(list(_of_shifts(times, clock_shifts(values[good], _only(days, good)), days)))
        if zone != "UTC" or all(abs(shift.detail["hours"]) != 1 for shift in findings[0]):
            break
    return min(findings, key=lambda shifts: sum((each.last - each.first for each in shifts), timedelta()))


# --- weather ---

#: Whole degrees stay the same on a foggy day.
_FROZEN_AFTER: Final = 24 * _HOUR


def frozen_weather(times: Micros, temperatures: Values) -> list[Finding]:
    """Temperatures that have not changed for a day."""
    times, temperatures = _finite(times, temperatures)
    return [
        _finding(
            FindingKind.FROZEN_WEATHER,
            times[start],
            times[end - 1],
            readings=int(end - start),
            value=float(temperatures[start]),
        )
        for start, end in _stretches(temperatures)
        if end - start >= FEWEST_STUCK and times[end - 1] - times[start] >= _FROZEN_AFTER
    ]


def _stretches(values: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of equal values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    return zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True)


def _of_runs(kind: FindingKind, times: Micros, values: Values, flags: Flags) -> Iterator[Finding]:
    """A finding for each group of flagged readings."""
    at = np.flatnonzero(flags)
    if not len(at):
        return
    for run in np.split(at, np.flatnonzero(np.diff(times[at]) > _JOIN) + 1):
        farthest = run[np.argmax(np.abs(values[run]))]
        yield _finding(
            kind,
            times[run[0]],
            times[run[-1]],
            readings=len(run),
            value=float(values[farthest]),
            typical=float(np.median(values[run])),
        )


def _finding(kind: FindingKind, first: Any, last: Any, **detail: Any) -> Finding:
    return Finding(kind, from_micros(first), from_micros(last), detail)

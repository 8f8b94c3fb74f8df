"""Features of targets: of each step ahead of an issue, computed in columns where rows are read.

An array has a row an issue and a column a lead: column i is of the step that begins i steps after the issue.
There is a case for each type of expression in features.py that is of targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from feast_plugins.errors import DeclarationError
from feast_plugins.windows.features import (
    DAY,
    HOUR,
    READING,
    TOTAL,
    WEATHER,
    Calendar,
    DegreeHours,
    Difference,
    Expression,
    Holiday,
    Lag,
    OfColumn,
    Ratio,
    SameHour,
    Series,
    SunPosition,
    Weather,
    WindPower,
)
from feast_plugins.windows.holiday_days import YEARS, days, days_of_zone
from feast_plugins.windows.vintages import Issues, Known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from feast_plugins.windows.vintages import Floats, Integers

_DAY_S: Final = DAY // HOUR * 3600
_SATURDAY: Final = 5
#: Of 1970-01-01, from Monday.
_FIRST_WEEKDAY: Final = 3
#: 1 January 2000, 12:00 UTC, in days since 1970.
_J2000: Final = 10_957.5


def reaches(features: Iterable[Expression], leads: int, delay: int) -> dict[str, tuple[int, int]]:
    """By column: the first step from an issue on, and the one after the last, that features of targets read.

    Args:
        features: of targets.
        leads: steps ahead.
        delay: whole steps after their end until readings are known.
    """
    found: dict[str, tuple[int, int]] = {}
    for leaf in (leaf for each in features for leaf in each.leaves()):
        first, end = _reach(leaf, leads, delay)
        if leaf.column in found:
            first, end = min(first, found[leaf.column][0]), max(end, found[leaf.column][1])
        found[leaf.column] = first, end
    return found


def _reach(leaf: OfColumn, leads: int, delay: int) -> tuple[int, int]:
    nearest, farthest = leaf.offsets()
    if leaf.column not in {READING, TOTAL}:
        return -farthest, leads - nearest
    if isinstance(leaf, SameHour):
        return -(farthest + delay), 0
    return -farthest, max(-farthest, min(leads - nearest, 0))


def evaluate(
    features: Mapping[str, Expression],
    columns: Mapping[str, Known],
    issues: Issues,
    step: timedelta,
    leads: int,
) -> dict[str, Floats]:
    """Features of targets, each of the shape (issues, leads); NaN where one is missing.

    Args:
        features: of targets.
        columns: by name; each has at least what `reaches` says.
        issues: the rows.
        step: of the view.
        leads: steps ahead.

    Raises:
        DeclarationError: an asset has a time zone that Python does not know.
    """
    targets = _Targets(columns, issues, step, leads)
    with np.errstate(all="ignore"):  # of what is missing
        found = {name: targets.of(each) for name, each in features.items()}
    for values in found.values():
        values[np.isnan(values)] = np.nan  # one of its many bit patterns, however it was made
    return found


@dataclass(frozen=True)
class _Targets:
    columns: Mapping[str, Known]
    issues: Issues
    step: timedelta
    leads: int

    def of(self, expression: Expression) -> Floats:  # noqa: PLR0911  # one a kind
        if isinstance(expression, Difference | Ratio):
            left, right = (self.of(leaf) for leaf in expression.leaves())
            return _difference(left, right) if isinstance(expression, Difference) else _ratio(left, right)
        if isinstance(expression, SameHour):
            return self._same_hour(expression)
        if isinstance(expression, DegreeHours):
            return self._degree_hours(expression)
        if isinstance(expression, Lag | Weather | Series):
            offset, _ = expression.offsets()
            return self.columns[expression.column].at(np.arange(self.leads) - offset)
        if isinstance(expression, WindPower):
            return _wind_power(expression, self.columns[expression.column].at(np.arange(self.leads)))
        if isinstance(expression, Calendar):
            return self._local(lambda seconds, _: calendar(expression.part, seconds))
        if isinstance(expression, Holiday):
            return self._local(lambda seconds, zone: _is_holiday(seconds, _dates(expression, zone)))
        assert isinstance(expression, SunPosition)  # noqa: S101  # there are no others
        return self._sun(expression.part)

    def _same_hour(self, of: SameHour) -> Floats:
        """Over the last steps of the same time of day that had ended, and were available, at the issue."""
        known = self.columns[of.column]
        leads = np.arange(self.leads)
        found = np.empty((len(self.issues), self.leads))
        is_reading = of.column in {READING, TOTAL}
        # of what can be known of the future, the steps before the target count
        delays = self.issues.delays if is_reading else np.zeros(len(self.issues), np.int64)
        for delay in np.unique(delays):
            nearest = -(-(leads + 1 + delay) // of.step) if is_reading else np.ones_like(leads)
            rows = delays == delay
            part = known.part(rows)
            found[rows] = _combined(
                of.function,
                [part.at(leads - (nearest + ago) * of.step) for ago in reversed(range(of.days))],
            )
        return found * self._in_hours(of) if of.function == "sum" else found

    def _in_hours(self, of: OfColumn) -> Floats:
        """Sums of rates are over hours, whatever the step; of each issue."""
        hours = self.step / HOUR
        if of.column in WEATHER:
            return np.full((len(self.issues), 1), hours)
        is_plain = np.array([each.is_plain for each in self.issues.register])[self.issues.assets]
        is_rate = (of.column in {READING, TOTAL}) & ~is_plain
        return np.where(is_rate, hours, 1.0)[:, None]

    def _degree_hours(self, of: DegreeHours) -> Floats:
        nearest, farthest = of.offsets()
        values = self.columns[of.column].at(np.arange(-farthest, self.leads - nearest))
        degrees = np.maximum(of.base - values if of.direction == "heating" else values - of.base, 0)
        total = np.zeros((len(self.issues), self.leads))
        for first in range(farthest - nearest + 1):
            total += degrees[:, first : first + self.leads]
        return total * self._in_hours(of)

    def _local(self, of: Callable[[Integers, str], Floats]) -> Floats:
        """What depends on the wall clock of a step, in seconds since 1970-01-01 00:00, and the zone."""
        found = np.empty((len(self.issues), self.leads))
        names = [each.timezone for each in self.issues.register]
        zones = {name: number for number, name in enumerate(dict.fromkeys(names))}
        of_issue = np.array([zones[name] for name in names], np.int64)[self.issues.assets]
        for name, number in zones.items():
            rows = of_issue == number
            if rows.any():
                first, end = self._span(rows)
                values = of(wall_clock(np.arange(first, end) * self.issues.step_us // 1_000_000, name), name)
                found[rows] = self._windows(values)[self.issues.steps[rows] - first]
        return found

    def _span(self, rows: np.ndarray | slice) -> tuple[int, int]:
        steps = self.issues.steps[rows]
        return int(steps.min()), int(steps.max()) + self.leads

    def _windows(self, values: Floats) -> Floats:
        return np.lib.stride_tricks.sliding_window_view(values, self.leads)

    def _sun(self, part: str) -> Floats:
        """As sun_position() in sql/code/054_sun.sql."""
        if not len(self.issues):
            return np.empty((0, self.leads))
        first, end = self._span(slice(None))
        days = np.arange(first, end) * (self.issues.step_us / 86_400e6) - _J2000
        anomaly = np.radians(357.528 + 0.9856003 * days)
        ecliptic = np.radians(
            280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly)
        )
        obliquity = np.radians(23.439 - 0.0000004 * days)
        declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic))
        ascension = np.arctan2(np.cos(obliquity) * np.sin(ecliptic), np.cos(ecliptic))
        angle = np.radians(280.46061837 + 360.98564736629 * days) - ascension
        at = self.issues.steps - first
        declination, angle = self._windows(declination)[at], self._windows(angle)[at]
        places = np.array([(each.latitude, each.longitude) for each in self.issues.register])
        north, east = np.radians(places[self.issues.assets]).T[:, :, None]
        angle = angle + east
        if part == "elevation":
            height = np.sin(north) * np.sin(declination) + np.cos(north) * np.cos(declination) * np.cos(angle)
            found: Floats = np.degrees(np.arcsin(np.clip(height, -1, 1)))
        else:
            south = np.cos(angle) * np.sin(north) - np.tan(declination) * np.cos(north)
            found = np.degrees(np.arctan2(np.sin(angle), south)) + 180
        return found


def _combined(function: str, values: Sequence[Floats]) -> Floats:
    """A function over the values that are known, oldest first; NaN where there is none, but of `count`."""
    is_known = [~np.isnan(each) for each in values]
    count: Floats = np.asarray(np.sum(is_known, axis=0, dtype=np.float64))
    if function == "count":
        return count
    if function in {"first", "last"}:
        found = np.full(count.shape, np.nan)
        for value in reversed(values) if function == "first" else values:
            np.copyto(found, value, where=~np.isnan(value))
        return found
    if function in {"min", "max"}:
        combine = np.fmin if function == "min" else np.fmax
        found = values[0]
        for value in values[1:]:
            found = combine(found, value)
        return found
    total = np.zeros(count.shape)
    for value, is_there in zip(values, is_known, strict=True):
        total += np.where(is_there, value, 0.0)
    if function == "sum":
        return np.where(count > 0, total, np.nan)
    mean = total / count
    if function == "mean":
        return mean
    squares = np.zeros(count.shape)
    for value, is_there in zip(values, is_known, strict=True):
        squares += np.where(is_there, (value - mean) ** 2, 0.0)
    return np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)


def _wind_power(of: WindPower, speeds: Floats) -> Floats:
    at_hub = speeds * (of.hub_height / of.measured_at) ** of.shear
    part = np.clip((at_hub**3 - of.cut_in**3) / (of.rated**3 - of.cut_in**3), 0, 1)
    return np.where(at_hub >= of.cut_out, 0.0, part)  # what is missing stays so


def _difference(left: Floats, right: Floats) -> Floats:
    found = left - right
    return np.where(np.isfinite(found), found, np.nan)


def _ratio(left: Floats, right: Floats) -> Floats:
    """NaN where `right` is 0, or where a double cannot hold the result."""
    found = left / right
    return np.where((right != 0) & np.isfinite(found) & ((found != 0) | (left == 0)), found, np.nan)


def wall_clock(seconds: Integers, timezone: str) -> Integers:
    """Times since 1970 (UTC) on a wall clock, in seconds since 1970-01-01 00:00 there.

    Raises:
        DeclarationError: Python does not know the time zone.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise DeclarationError(
            f"There is no time zone {timezone!r}: give the asset another by `ai-hub asset add --timezone`."
        ) from error
    times = pd.DatetimeIndex(seconds.astype("datetime64[s]"), tz="UTC")
    local = times.tz_convert(zone).tz_localize(None).to_numpy()
    return local.astype("datetime64[s]").astype(np.int64)


def calendar(part: str, local: Integers) -> Floats:
    """Part of the calendar of times on a wall clock, in seconds since 1970-01-01 00:00; Monday is 0."""
    day = local // _DAY_S
    if part == "local_time":
        found = local
    elif part == "hour_of_day":
        found = local % _DAY_S // 3600
    elif part in {"day_of_week", "is_weekend"}:
        found = (day + _FIRST_WEEKDAY) % 7
        if part == "is_weekend":
            found = (found >= _SATURDAY).astype(np.int64)
    else:
        dates = day.astype("datetime64[D]")
        months = dates.astype("datetime64[M]")
        if part == "month":
            found = months.astype(np.int64) % 12 + 1
        else:
            begin = months if part == "day_of_month" else dates.astype("datetime64[Y]")
            found = (dates - begin.astype("datetime64[D]")).astype(np.int64) + 1
    return found.astype(np.float64)


def _dates(of: Holiday, timezone: str) -> tuple[date, ...] | None:
    return days_of_zone(timezone) if of.country is None else days(of.country, of.subdivision)


def _is_holiday(local: Integers, dates: tuple[date, ...] | None) -> Floats:
    if dates is None:
        return np.full(len(local), np.nan)
    holidays = np.array([day.toordinal() for day in dates]) - date(1970, 1, 1).toordinal()
    day = local // _DAY_S
    years = day.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970
    is_covered = (years >= YEARS[0]) & (years <= YEARS[-1])
    return np.where(is_covered, np.isin(day, holidays).astype(np.float64), np.nan)

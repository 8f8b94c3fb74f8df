"""Columns as rows of a view with a horizon know them: what was known at an issue of each step around it.

Steps have numbers since 1970, times are microseconds since 1970. An issue is a row: of whom, and the step
that begins then. What is known of readings depends on their time, or on when they say that they arrived;
weather and external series have vintages, values of the same time with the times since which each could be
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from feast_plugins.windows.features import WEATHER_AGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

_HOUR_US: Final = 3_600_000_000
_WEATHER_AGE_US: Final = WEATHER_AGE * _HOUR_US


@dataclass(frozen=True)
class Asset:
    """What the register has of an asset that its features of targets depend on."""

    timezone: str = "UTC"
    #: NaN: not known
    latitude: float = np.nan
    longitude: float = np.nan
    #: after the end of a step its readings are known, in microseconds
    available_after: int = 0
    #: whether sums of its readings are not over time
    is_plain: bool = True


#: A step that no issue knows, and one without readings, of which there is nothing to know.
LATE: Final = np.iinfo(np.int64).max - 1
EMPTY: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Arrivals:
    """From when on steps are known, of assets whose readings say it."""

    #: row of each asset of the register in `known`; -1: its readings do not say it
    rows: Integers
    #: number of the first step that is read
    first: int
    #: by asset and step, the number of the first step that begins when its last reading is known
    known: Integers
    #: what `_by_time` found, by row
    _sorted: dict[int, tuple[Integers, Integers]] = field(default_factory=dict)

    def of(self, assets: Integers) -> Arrivals:
        """Those of some assets of the register, in another order."""
        return replace(self, rows=self.rows[assets])

    def at(self, assets: Integers, steps: Integers) -> Integers:
        """As `known`, of the steps in a row for each of these assets: `LATE` where they were not read."""
        columns = steps - self.first
        is_read = (columns >= 0) & (columns < self.known.shape[1])
        if not self.known.shape[1]:
            return np.full(steps.shape, LATE)
        found = self.known[self.rows[assets][:, None], np.clip(columns, 0, self.known.shape[1] - 1)]
        found[~is_read] = LATE
        return found

    def newest(self, assets: Integers, issued: Integers) -> Integers:
        """The newest step of each asset that was known when a step began; `first` - 1: none was."""
        found = np.empty(len(assets), np.int64)
        order = np.argsort(assets, kind="stable")
        starts = np.flatnonzero(np.diff(assets[order], prepend=-1))
        for rows in np.split(order, starts[1:]) if len(order) else ():
            times, newest = self._by_time(int(self.rows[assets[rows[0]]]))
            found[rows] = self.first + newest[np.searchsorted(times, issued[rows], side="right")]
        return found

    def _by_time(self, row: int) -> tuple[Integers, Integers]:
        """When steps of a row of `known` were, in order, and the newest step by each of these times."""
        if row not in self._sorted:
            order = np.argsort(self.known[row], kind="stable")
            self._sorted[row] = self.known[row, order], np.append(-1, np.maximum.accumulate(order))
        return self._sorted[row]


@dataclass(frozen=True)
class Issues:
    """Rows of a view with a horizon, an element each."""

    register: Sequence[Asset]
    #: position in the register
    assets: Integers
    #: number of the step that begins at the issue
    steps: Integers
    #: of a step
    step_us: int
    #: of readings that say when they arrived; None: none does
    arrivals: Arrivals | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def part(self, rows: slice) -> Issues:
        """Some of them."""
        return replace(self, assets=self.assets[rows], steps=self.steps[rows])

    @cached_property
    def delays(self) -> Integers:
        """Whole steps from the end of the newest step that was known to the issue."""
        after = np.array([each.available_after for each in self.register], np.int64)
        found = (-(-after // self.step_us))[self.assets]
        if self.arrivals is not None:
            rows = np.flatnonzero(self.has_arrivals)
            found[rows] = self.steps[rows] - 1 - self.arrivals.newest(self.assets[rows], self.steps[rows])
        return found

    @property
    def has_arrivals(self) -> Flags:
        """Whether the readings of each one's asset say when they arrived."""
        if self.arrivals is None:
            return np.zeros(len(self), bool)
        return self.arrivals.rows[self.assets] >= 0

    def are_known(self, first: int, end: int) -> Flags:
        """Of the steps from `first` to before `end` after each issue, which had ended and were known."""
        found = np.arange(first, end) < -self.delays[:, None]
        if self.arrivals is not None and (rows := np.flatnonzero(self.has_arrivals)).size:
            steps = self.steps[rows, None] + np.arange(first, end)
            found[rows] &= self.arrivals.at(self.assets[rows], steps) <= self.steps[rows, None]
        return found

    @property
    def times(self) -> Integers:
        """Of the issues, in microseconds since 1970."""
        return self.steps * self.step_us

    def ahead(self, first: int, end: int) -> Integers:
        """Numbers of the steps from `first` to before `end` after each issue, a row each."""
        return self.steps[:, None] + np.arange(first, end)


@dataclass(frozen=True)
class Known:
    """A column as issues know it, a row each: the steps from `first` after the issue on; NaN: not known."""

    first: int
    values: Floats

    def part(self, rows: Flags) -> Known:
        """Some of the rows."""
        return Known(self.first, self.values[rows])

    def at(self, offsets: Integers) -> Floats:
        """The values so many steps after the issues; NaN beyond the column."""
        columns = offsets - self.first
        width = self.values.shape[1]
        is_inside = (columns >= 0) & (columns < width)
        if not width:
            return np.full((len(self.values), len(offsets)), np.nan)
        found = np.take(self.values, np.clip(columns, 0, width - 1), axis=1)
        if not is_inside.all():
            found[:, ~is_inside] = np.nan
        return found


@dataclass(frozen=True)
class Grid:
    """Values of the readings of assets in steps from `first` on, a row an asset; NaN where there is none."""

    first: int
    values: Floats

    def known(self, issues: Issues, first: int, end: int) -> Known:
        """The steps that had ended by the issues, and whose readings were available."""
        at = issues.ahead(first, end) - self.first
        width = self.values.shape[1]
        is_inside = (at >= 0) & (at < width) & issues.are_known(first, end)
        if not width:
            return Known(first, np.full(at.shape, np.nan))
        found = self.values[issues.assets[:, None], np.clip(at, 0, width - 1)]
        found[~is_inside] = np.nan
        return Known(first, found)


@dataclass(frozen=True)
class Vintages:
    """Values of several series; an element is a value, in the order of series, time and availability."""

    #: of each distinct series and time: whose, when, and its first element
    series: Integers
    times: Integers
    starts: Integers
    #: since when each element could be read, and its value
    available: Integers
    values: Floats

    @classmethod
    def of(
        cls, series: Integers, times: Integers, available: Integers, columns: Mapping[str, Floats]
    ) -> dict[str, Self]:
        """By column, those with a value; the rows in any order."""
        order = np.lexsort((available, times, series))
        series, times, available = series[order], times[order], available[order]
        found = {}
        alike: dict[bytes, Self] = {}
        for name, unordered in columns.items():
            values = unordered[order]
            is_there = ~np.isnan(values)
            # columns of the same rows, as most are, share what tells them apart
            key = b"" if is_there.all() else np.packbits(is_there).tobytes()
            if key not in alike:
                alike[key] = cls._of(series[is_there], times[is_there], available[is_there], values[is_there])
            found[name] = replace(alike[key], values=values[is_there])
        return found

    @classmethod
    def _of(cls, series: Integers, times: Integers, available: Integers, values: Floats) -> Self:
        is_first = np.ones(len(series), bool)
        is_first[1:] = (series[1:] != series[:-1]) | (times[1:] != times[:-1])
        starts = np.flatnonzero(is_first)
        return cls(series[starts], times[starts], starts, available, values)

    @cached_property
    def _moments(self) -> Integers:
        return np.unique(self.available)

    @cached_property
    def _keys(self) -> Integers:
        """Place among the distinct series and times, and then of the availability: ascending."""
        counts = np.diff(np.append(self.starts, len(self.values)))
        place = np.repeat(np.arange(len(self.starts)), counts)
        return place * (len(self._moments) + 1) + np.searchsorted(self._moments, self.available) + 1

    def ranks(self, times: Integers) -> Integers:
        """How `newest` has times of issues."""
        return np.searchsorted(self._moments, times, side="right")

    def newest(self, places: Integers, ranks: Integers) -> Integers:
        """Newest element that was available at an issue, of a series and time; -1 where none was."""
        found = np.searchsorted(self._keys, places * (len(self._moments) + 1) + ranks, side="right") - 1
        return np.where((found >= 0) & (found >= self.starts[places]), found, -1)

    def before(self, count: int, times: Integers) -> Integers:
        """How many series and times there are before some times, a row for series 0 to `count` - 1."""
        moments = np.unique(self.times)
        keys = self.series * (len(moments) + 1) + np.searchsorted(moments, self.times) + 1
        wanted = np.arange(count)[:, None] * (len(moments) + 1) + np.searchsorted(moments, times)
        found = np.searchsorted(keys, wanted.ravel(), side="right")
        return found.reshape(count, len(times))


@dataclass(frozen=True)
class Weather:
    """Weather of stations: of each step the newest of six hours that was available at the issue."""

    #: by column
    vintages: Mapping[str, Vintages]
    #: number of the station of each asset of the register
    stations: Integers
    #: steps that issues look at
    first: int
    end: int

    def known(self, issues: Issues, columns: Sequence[str], first: int, end: int) -> dict[str, Known]:
        """Columns by name."""
        alike: dict[int, list[str]] = {}
        for name in columns:
            # variables of the same rows are of the same elements
            alike.setdefault(id(self.vintages[name].available), []).append(name)
        found = {}
        for names in alike.values():
            elements = self._elements(issues, names[0], first, end)
            for name in names:
                values = np.append(self.vintages[name].values, np.nan)
                found[name] = Known(first, values[elements])
        return found

    @cached_property
    def _last(self) -> dict[str, Integers]:
        return {}

    def _elements(self, issues: Issues, name: str, first: int, end: int) -> Integers:
        """The element that each step of each issue has its value of; -1 where none was known."""
        vintages = self.vintages[name]
        if name not in self._last:
            times = np.arange(self.first, self.end) * issues.step_us + 1
            self._last[name] = vintages.before(int(self.stations.max(initial=-1)) + 1, times) - 1
        steps = issues.ahead(first, end)
        stations = self.stations[issues.assets]
        found = np.full(steps.shape, -1)
        if not len(vintages.series):
            return found
        places = self._last[name][stations[:, None], steps - self.first].ravel()
        flat = found.reshape(-1)
        row = np.repeat(np.arange(len(issues)), end - first)
        oldest = (steps * issues.step_us - _WEATHER_AGE_US).ravel()
        ranks = vintages.ranks(issues.times)
        open_ = np.arange(len(flat))
        while len(open_):
            at = places[open_]
            is_near = (
                (at >= 0)
                & (vintages.series[at] == stations[row[open_]])
                & (vintages.times[at] > oldest[open_])
            )
            open_, at = open_[is_near], at[is_near]
            newest = vintages.newest(at, ranks[row[open_]])
            flat[open_] = newest
            open_ = open_[newest < 0]
            places[open_] -= 1
        return found


@dataclass(frozen=True)
class Series:
    """An external series: of each step the mean of the newest values that were available at the issue.

    In steps of less than an hour, values at equal distances from the begin of an hour last until the next.
    """

    vintages: Vintages
    #: number of the zone of each asset of the register; -1: it has none
    zones: Integers
    #: steps that issues look at
    first: int
    end: int

    def known(self, issues: Issues, first: int, end: int) -> Known:
        """The column."""
        per_hour = _HOUR_US // issues.step_us
        # whole hours: all that is known of an hour says which steps a value is of
        hour = issues.steps // per_hour
        first_hour, end_hour = first // per_hour, -(-(end + per_hour - 1) // per_hour)
        hours = hour[:, None] + np.arange(first_hour, end_hour)
        shape = hours.shape
        zones = self.zones[issues.assets]
        whole = np.full((*shape, per_hour), np.nan)
        if len(self.vintages.series):
            self._fill(whole, issues, hours, zones)
        steps = whole.reshape(len(issues), -1)
        at = (issues.steps - hour * per_hour)[:, None] + np.arange(first, end) - first_hour * per_hour
        return Known(first, np.take_along_axis(steps, at, axis=1))

    @cached_property
    def _before(self) -> dict[int, Integers]:
        return {}

    def _fill(self, whole: Floats, issues: Issues, hours: Integers, zones: Integers) -> None:
        per_hour = whole.shape[2]
        origin = self.first // per_hour - 1
        if per_hour not in self._before:
            bounds = np.arange(origin, self.end // per_hour + 3) * _HOUR_US
            self._before[per_hour] = self.vintages.before(int(self.zones.max(initial=-1)) + 1, bounds)
        before = self._before[per_hour]
        if not len(before):
            return
        is_of = np.broadcast_to((zones >= 0)[:, None], hours.shape)
        start = before[np.maximum(zones, 0)[:, None], hours - origin]
        # those of the next hour may be of another zone
        counts = np.where(is_of, before[np.maximum(zones, 0)[:, None], hours - origin + 1] - start, 0)
        ranks = np.broadcast_to(self.vintages.ranks(issues.times)[:, None], hours.shape)
        last = len(self.vintages.series) - 1

        def issued() -> Iterator[tuple[Flags, Integers, Integers]]:
            """Of each time of an hour: where it is known, its time in the hour, and its element."""
            for number in range(int(counts.max(initial=0))):
                place = np.minimum(start + number, last)
                element = self.vintages.newest(place, ranks)
                yield (
                    (number < counts) & (element >= 0),
                    self.vintages.times[place] - hours * _HOUR_US,
                    element,
                )

        count = np.zeros(hours.shape, np.int64)
        for is_known, _, _ in issued():
            count += is_known
        is_regular = per_hour % np.maximum(count, 1) == 0
        for is_known, time, _ in issued():
            is_regular &= ~is_known | (time * count % _HOUR_US == 0)
        total, weight = np.zeros((2, *whole.shape))
        place_in_hour = np.zeros(hours.shape, np.int64)
        for is_known, time, element in issued():
            value = np.where(is_known, self.vintages.values[element], 0.0)
            for step in range(per_hour):
                is_lasting = step * count // per_hour == place_in_hour
                is_own = time * per_hour // _HOUR_US == step
                is_here = is_known & (np.where(is_regular, is_lasting, is_own) if per_hour > 1 else True)
                total[:, :, step] += np.where(is_here, value, 0.0)
                weight[:, :, step] += is_here
            place_in_hour += is_known
        with np.errstate(invalid="ignore"):  # nothing of nothing
            whole[:] = total / weight

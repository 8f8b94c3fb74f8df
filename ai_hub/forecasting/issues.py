"""Rows of issues: what is known when a forecast is issued, for all its leads, and what came of it.

Lead `i` of a row is the step that starts at issue + i * step. NaN is a missing value everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Strings: TypeAlias = npt.NDArray[np.str_]
#: Instants in UTC, in microseconds.
Instants: TypeAlias = npt.NDArray[np.datetime64]
Durations: TypeAlias = npt.NDArray[np.timedelta64]

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(weeks=1)


def instant(at: datetime) -> np.datetime64:
    """A time with a zone as NumPy has it, in UTC."""
    return np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")


def instants(times: Iterable[datetime]) -> Instants:
    """Times with zones as NumPy has them, in UTC."""
    return np.array([at.astimezone(UTC).replace(tzinfo=None) for at in times], "datetime64[us]")


def durations(hours: Floats) -> Durations:
    """Hours in microseconds; none for NaN."""
    return np.round(np.nan_to_num(hours) * 3.6e9).astype(np.int64).astype("timedelta64[us]")


@dataclass(frozen=True)
class IssueRows:
    """Features of issues of a tenant's assets, one row an asset and time of issue.

    Raises:
        ValueError: shapes differ.
    """

    tenant_id: str
    #: (n,)
    assets: Strings
    #: (n,)
    issued_at: Instants
    step: timedelta
    #: by feature, (n,): what is known at issue
    scalars: Mapping[str, Floats]
    #: by feature, (n, leads): of the targets, as known at issue
    arrays: Mapping[str, Floats]
    #: (n, leads): the targets' values; None: not read
    actual: Floats | None = None
    #: (n, leads): when those were known; None: by the rule of their asset alone
    actual_known: Instants | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        n = len(self.assets)
        wide = [
            *self.arrays.values(),
            *(each for each in (self.actual, self.actual_known) if each is not None),
        ]
        shapes = {self.issued_at.shape, *(each.shape for each in self.scalars.values())}
        if shapes != {(n,)} or len({each.shape for each in wide}) != 1 or wide[0].shape[0] != n:
            raise ValueError(f"of {n} rows: {shapes} and {[each.shape for each in wide]}")

    def __len__(self) -> int:
        return len(self.assets)

    @property
    def leads(self) -> int:
        """Steps that are forecast at each issue."""
        return int(next(iter(self.arrays.values())).shape[1])

    @property
    def starts(self) -> Instants:
        """(n, leads): when the targets begin."""
        return self.issued_at[:, None] + np.arange(self.leads) * np.timedelta64(self.step)

    @property
    def ends(self) -> Instants:
        """(n, leads): when the targets end."""
        return self.starts + np.timedelta64(self.step)

    def take(self, index: Ints | Flags | slice) -> IssueRows:
        """Some of the rows."""
        return replace(
            self,
            assets=self.assets[index],
            issued_at=self.issued_at[index],
            scalars={name: each[index] for name, each in self.scalars.items()},
            arrays={name: each[index] for name, each in self.arrays.items()},
            actual=None if self.actual is None else self.actual[index],
            actual_known=None if self.actual_known is None else self.actual_known[index],
        )

    def first(self, leads: int) -> IssueRows:
        """The rows with their first leads alone."""
        if leads == self.leads:
            return self
        return replace(
            self,
            arrays={name: each[:, :leads] for name, each in self.arrays.items()},
            actual=None if self.actual is None else self.actual[:, :leads],
            actual_known=None if self.actual_known is None else self.actual_known[:, :leads],
        )

    def known_at(self, delay: Durations) -> Instants:
        """(n, leads): when the actual values were known; `delay` (n,): after the end, if nothing says it."""
        return self.ends + delay[:, None] if self.actual_known is None else self.actual_known

    def lateness(self, delay: Durations) -> Durations:
        """(n, leads): from the end of each target until its value was known; `delay` as of `known_at`."""
        return self.known_at(delay) - self.ends

    def usual_lateness(self, delay: Durations) -> np.timedelta64:
        """The largest of the assets' median `lateness`, which a few corrections do not change."""
        late = self.lateness(delay).astype(np.int64)
        _, number, rows = np.unique(self.assets, return_inverse=True, return_counts=True)
        by_asset = np.split(late[np.argsort(number, kind="stable")], np.cumsum(rows)[:-1])
        return np.timedelta64(int(max(map(np.median, by_asset)) if len(late) else 0), "us")

    def known_by(self, at: np.datetime64, delay: Durations) -> IssueRows:
        """Rows issued before `at`, with those actual values that were known then.

        Args:
            at: the time.
            delay: (n,): how long after its end the value of a step becomes known.
        """
        kept: Flags | slice = self.issued_at < at
        if (self.issued_at[1:] >= self.issued_at[:-1]).all():
            kept = slice(0, int(np.searchsorted(self.issued_at, at)))  # copies nothing
        rows = self.take(kept)
        if rows.actual is None:
            return rows
        known = rows.known_at(delay[kept]) <= at
        return replace(rows, actual=np.where(known, rows.actual, np.nan))


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of issues; the rows are those of the `IssueRows` they were made of."""

    assets: Strings
    issued_at: Instants
    step: timedelta
    #: (n, leads)
    values: Floats
    #: (n, leads, levels), rising along the last axis
    quantiles: Floats
    #: such as 0.1, 0.5, 0.9
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Inputs:
    """Which features a model reads, and in which order."""

    scalars: tuple[str, ...]
    arrays: tuple[str, ...]
    #: those of them in the unit of the target; trees see them as multiples of the row's level
    in_unit: frozenset[str]
    #: those of them that are values or means of the asset, which say what is usual for it
    usual: frozenset[str]

    @property
    def columns(self) -> list[str]:
        """Of `matrix`."""
        return [*self.scalars, *self.arrays, "lead_hours"]


def level(rows: IssueRows, inputs: Inputs) -> Floats:
    """(n,): root mean square of what is usual for a row's asset; NaN where nothing is known.

    Squares, since the mean of net load may be near zero.
    """
    usual = [rows.arrays[name] for name in inputs.arrays if name in inputs.usual]
    usual += [rows.scalars[name][:, None] for name in inputs.scalars if name in inputs.usual]
    if not usual:
        return np.ones(len(rows))
    return np.sqrt(_mean([np.square(each) for each in usual], axis=1))


def baseline(rows: IssueRows, inputs: Inputs) -> Floats:
    """(n, leads): mean of what is usual for each target, such as the same hour of earlier days.

    Where nothing of a target is known, the mean of the other targets; NaN in rows without any.
    """
    usual = [rows.arrays[name] for name in inputs.arrays if name in inputs.usual]
    if not usual:
        return np.zeros((len(rows), rows.leads))
    found = _mean([each[:, :, None] for each in usual], axis=2)
    return np.where(np.isnan(found), _mean([found], axis=1)[:, None], found)


def _mean(parts: Sequence[Floats], axis: int) -> Floats:
    """Mean of all values of the parts along an axis, without NaN; NaN where there is none."""
    total = sum(np.nansum(each, axis=axis) for each in parts)
    count = sum(np.sum(~np.isnan(each), axis=axis) for each in parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count == 0, np.nan, total / count), dtype=np.float64)


def matrix(rows: IssueRows, leads: Ints, inputs: Inputs, levels: Floats) -> npt.NDArray[np.float32]:
    """Input of the trees, one row an issue and lead; training, backtest and service make it here alone.

    Single precision: the digits after it are rounding errors, on which no tree must split.

    Args:
        rows: n of them.
        leads: (n, k), which leads of each row.
        inputs: the features.
        levels: (n,), of the rows, see `level`.

    Returns:
        (n * k, columns), by row and lead.
    """
    n, k = leads.shape
    found = np.empty((n, k, len(inputs.columns)), np.float32)
    divisor = np.where(levels > 0, levels, np.nan)[:, None]
    for column, name in enumerate(inputs.scalars):
        values = rows.scalars[name][:, None]
        found[:, :, column] = values / divisor if name in inputs.in_unit else values
    for column, name in enumerate(inputs.arrays, len(inputs.scalars)):
        values = np.take_along_axis(rows.arrays[name], leads, axis=1)
        found[:, :, column] = values / divisor if name in inputs.in_unit else values
    found[:, :, -1] = leads * (rows.step / HOUR)
    return found.reshape(n * k, -1)


@dataclass(frozen=True)
class StepValues:
    """Values of consecutive steps of some assets."""

    #: (a,), in order
    assets: Strings
    #: of the first step
    start: np.datetime64
    step: timedelta
    #: (a, steps)
    values: Floats

    @classmethod
    def of(
        cls, assets: Strings, asset: Ints, starts: Instants, values: Floats, step: timedelta
    ) -> StepValues:
        """Values of steps in any order; all begin at whole steps since 1970.

        Args:
            assets: their names, each once.
            asset: (n,), the number of each value's asset.
            starts: (n,), when its step begins.
            values: (n,).
            step: of all.

        Raises:
            ValueError: there are none.
        """
        order = np.argsort(assets)
        names, row = assets[order], np.argsort(order)[asset]
        first = starts.min()
        column = (starts - first) // np.timedelta64(step)
        found = np.full((len(names), int(column.max()) + 1), np.nan)
        found[row, column] = values
        return cls(names, first, step, found)

    def at(self, assets: Strings, starts: Instants) -> Floats:
        """Values of the steps that begin at `starts` (n, k) of `assets` (n,); NaN where there is none."""
        row = np.searchsorted(self.assets, assets)
        row = np.minimum(row, len(self.assets) - 1)
        column = (starts - self.start) // np.timedelta64(self.step)
        inside = (column >= 0) & (column < self.values.shape[1]) & (self.assets[row] == assets)[:, None]
        found = self.values[row[:, None], np.where(inside, column, 0)]
        return np.where(inside, found, np.nan)

    def before(self, at: np.datetime64) -> StepValues:
        """Those of steps that begin before `at`, as NaN-padded as they are."""
        count = max(int((at - self.start) // np.timedelta64(self.step)), 1)
        return replace(self, values=self.values[:, :count])


#: How many seasons a naive forecast looks at for a value, from the first that was known on: it may be a gap.
_SEASONS: Final = 4


def naive(
    values: StepValues,
    rows: IssueRows,
    season: timedelta,
    delay: Durations,
    arrived: StepValues | None = None,
) -> Floats:
    """(n, leads): the last value known at issue that lies whole seasons before each target.

    Args:
        values: of the assets, of any time.
        rows: the issues.
        season: such as a day or a week.
        delay: (n,): how long after its end the value of a step becomes known.
        arrived: the same of each step in hours, NaN where `delay` says it. Of assets that have any it looks
            back until a season's value was known.
    """
    period = np.timedelta64(season)
    at_once, last_of = delay, 0
    if arrived is not None:
        says_it = np.isin(rows.assets, arrived.assets[np.isfinite(arrived.values).any(axis=1)])
        at_once = np.where(says_it, np.timedelta64(0, "us"), delay)
        latest = max(each.astype(np.int64).max(initial=0) for each in (durations(arrived.values), delay))
        last_of = int(-(-np.timedelta64(int(latest), "us") // period))
    behind = rows.ends + at_once[:, None] - rows.issued_at[:, None]
    seasons = np.maximum(-(-behind // period), 1)
    found = np.full(behind.shape, np.nan)
    tried = np.zeros(behind.shape, np.int64)
    for further in range(last_of + _SEASONS):
        starts = rows.starts - (seasons + further) * period
        earlier = values.at(rows.assets, starts)
        is_known: Flags | bool = True
        if arrived is not None:
            hours = arrived.at(rows.assets, starts)
            late = np.where(np.isnan(hours), delay[:, None], durations(hours))
            is_known = starts + np.timedelta64(rows.step) + late <= rows.issued_at[:, None]
            earlier[~is_known] = np.nan
            # a step without readings says nothing of when those around it arrived
            is_known &= np.isfinite(hours) | np.isfinite(earlier) | ~says_it[:, None]
        tried += (tried > 0) | is_known
        found = np.where(np.isnan(found) & (tried <= _SEASONS), earlier, found)
        if ((tried >= _SEASONS) | np.isfinite(found) | (starts < values.start)).all():
            break
    return found


_RULE: Final = re.compile(r"D-(?P<days>\d{1,2})\s+(?P<time>\d{1,2}:\d{2})(?:\s+(?P<zone>\S+))?")
#: Hours by which issues move from day to day where no rule is given: all hours take part.
_DRIFT_HOURS: Final = 7


@dataclass(frozen=True)
class IssueRule:
    """A time of issue before each day of delivery, such as `D-1 10:00 Europe/Berlin`."""

    days: int
    at: time
    zone: str

    @classmethod
    def parse(cls, text: str) -> IssueRule:
        """The rule that a text says; without a zone in UTC.

        Raises:
            BadInputError: it says none.
        """
        hint = "Say it as `D-1 10:00 Europe/Berlin`: how many days before the day of delivery, and when."
        parts = _RULE.fullmatch(text.strip())
        if parts is None:
            raise BadInputError(f"{text!r} is no time of issue.", hint=hint)
        zone = parts["zone"] or "UTC"
        try:
            ZoneInfo(zone)
            hour, minute = map(int, parts["time"].split(":"))
            return cls(int(parts["days"]), time(hour, minute), zone)
        except (ValueError, OSError, KeyError) as error:
            raise BadInputError(f"{text!r} is no time of issue: {error}.", hint=hint) from error

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"D-{self.days} {self.at:%H:%M} {self.zone}"

    def issued_for(self, day: date) -> datetime:
        """When the forecast of a day of delivery is issued, in UTC."""
        local = datetime.combine(day - timedelta(days=self.days), self.at, ZoneInfo(self.zone))
        return local.astimezone(UTC)

    def delivery(self, issue: datetime) -> tuple[datetime, datetime]:
        """Start and end of the day of delivery of an issue, in UTC."""
        zone = ZoneInfo(self.zone)
        near = issue.astimezone(zone).date() + timedelta(days=self.days)
        # an issue is at a whole step, which may begin on the day before
        days = (near, near + timedelta(days=1))
        day = next((each for each in days if timedelta(0) <= self.issued_for(each) - issue < HOUR), near)
        first, last = (
            datetime.combine(each, time(0), zone).astimezone(UTC) for each in (day, day + timedelta(days=1))
        )
        return first, last

    def check_horizon(self, horizon: timedelta) -> None:
        """Refuse a horizon that ends before the day of delivery.

        Raises:
            BadInputError: it does.
        """
        # 25 hours is the longest day
        needed = (self.days + 1) * DAY + HOUR - timedelta(hours=self.at.hour, minutes=self.at.minute)
        if horizon < needed:
            hours = -(-needed // HOUR)
            raise BadInputError(
                f"A horizon of {horizon / HOUR:g} h ends before the day of delivery of an issue at {self}.",
                hint=f"Take --horizon {hours}h, or a later time of issue.",
            )

    def delivered(self, rows: IssueRows) -> Flags:
        """(n, leads): which targets are in the day of delivery of their issue."""
        found = np.zeros((len(rows), rows.leads), bool)
        for issued in np.unique(rows.issued_at):
            first, last = self.delivery(issued.astype(datetime).replace(tzinfo=UTC))
            of_issue = rows.issued_at == issued
            starts = rows.starts[of_issue]
            found[of_issue] = (starts >= instant(first)) & (starts < instant(last))
        return found


def issue_times(
    start: datetime, end: datetime, step: timedelta, rule: IssueRule | None = None
) -> list[datetime]:
    """One issue a day in [start, end), in UTC, at whole steps.

    Without a rule the hour moves from day to day, so that a model can be asked at any hour.
    """
    found = []
    day = start.date() - DAY
    # an issue for a day of delivery may be many days before it
    ahead = rule.days if rule else 0
    while day <= end.date() + (ahead + 2) * DAY:
        if rule is not None:
            issue = rule.issued_for(day)
        else:
            hours = day.toordinal() * _DRIFT_HOURS % 24
            issue = datetime.combine(day, time(hours), UTC)
        issue -= (issue - datetime(1970, 1, 1, tzinfo=UTC)) % step
        if start <= issue < end:
            found.append(issue)
        day += DAY
    return sorted(found)


def parse_duration(text: str, option: str) -> timedelta:
    """A duration such as `48h`, `15m` or `7d`.

    Raises:
        BadInputError: it is none.
    """
    parts = re.fullmatch(r"(\d{1,5})\s*(m|min|h|d)", text.strip().lower())
    if parts is None or not int(parts[1]):
        raise BadInputError(f"{option} {text!r} is no duration.", hint="Say it as 48h, 30m or 7d.")
    unit: dict[str, Any] = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
    return timedelta(**{unit[parts[2]]: int(parts[1])})

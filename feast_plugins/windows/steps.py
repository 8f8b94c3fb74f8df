# ruff: noqa: E501 - SQL as it is sent
"""SQL of the times of rows, and of the readings of a step: an hour, a part of it, or a day in the asset's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from feast_plugins.windows.features import DAY, HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping

_QUARTER: Final = timedelta(minutes=15)
_HOURS: Final = """\
SELECT * FROM public.hourly_features AS hourly
WHERE hourly.tenant_id = k.tenant_id AND hourly.asset_id = k.asset_id
    AND hourly.hour >= {first} AND hourly.hour < {end}
    {bounds}"""
_HOUR_VALUE: Final = """\
hour_value(
    k.is_amount, k.unit_factor, k.interval_seconds, hourly.avg_value, hourly.min_value, hourly.max_value,
    hourly.value_stats, hourly.known_seconds, hourly.unknown_count, hourly.value_seconds
)"""
_QUARTERS: Final = """\
SELECT {columns} FROM public.quarter_hour_features AS quarters
WHERE quarters.tenant_id = k.tenant_id AND quarters.asset_id = k.asset_id
    AND quarters.quarter >= {first} AND quarters.quarter < {end}
    {bounds}"""
_QUARTER_COLUMNS: Final = "quarters.quarter AS hour, quarters.*"
# The same columns for several quarter hours, with states merged in the order of time.
_MERGED_COLUMNS: Final = """\
{begin} AS hour, float8_avg(stats_merge(value_stats ORDER BY quarter)) AS avg_value,
    min(min_value) AS min_value, max(max_value) AS max_value, sum(sample_count)::bigint AS sample_count,
    stats_merge(value_stats ORDER BY quarter) AS value_stats, max(last_ingested_at) AS last_ingested_at,
    sum(known_seconds)::bigint AS known_seconds, sum(unknown_count)::bigint AS unknown_count,
    sum(value_seconds) AS value_seconds, max(longest_seconds) AS longest_seconds"""
_STEP_VALUE: Final = """\
step_value(
    {seconds}, hourly.longest_seconds, k.is_amount, k.unit_factor, k.interval_seconds, hourly.avg_value,
    hourly.min_value, hourly.max_value, hourly.value_stats, hourly.known_seconds, hourly.unknown_count,
    hourly.value_seconds
)"""
_INTERVALS: Final[Mapping[timedelta, str]] = {
    _QUARTER: "15 minutes",
    2 * _QUARTER: "30 minutes",
    HOUR: "1 hour",
    DAY: "24 hours",
}


@dataclass(frozen=True)
class Steps:
    """SQL for rows with a step; `k` is a row at `k.hour` in an asset's time zone `k.timezone`."""

    step: timedelta

    @property
    def interval(self) -> str:
        """The step as the text of an interval."""
        return _INTERVALS[self.step]

    @property
    def hours(self) -> float:
        """The step in hours."""
        return self.step / HOUR

    def many(self, count: int) -> str:
        """So many steps, as an interval; of days 24 hours each."""
        minutes = count * self.step // timedelta(minutes=1)
        return f"INTERVAL '{minutes} minutes'" if minutes % 60 else f"INTERVAL '{minutes // 60} hours'"

    def before(self, time: str, count: int) -> str:
        """The time so many steps before a row, or after it where `count` is negative; of days their begin."""
        if self.step == DAY:
            return f"day_begin(date_trunc('day', {time} AT TIME ZONE k.timezone) - INTERVAL '{count} days', k.timezone)"
        return f"{time} - {self.many(count)}"

    def begin(self, time: str) -> str:
        """The begin of the step that a time is in."""
        if self.step == DAY:
            return self.before(time, 0)
        return f"time_bucket(INTERVAL '{self.interval}', {time})"

    def ago(self, begin: str, row: str = "k.hour") -> str:
        """How many steps before a row a step began."""
        if self.step == DAY:
            return f"({_day(row)} - {_day(begin)})"
        return f"(date_part('epoch', {row} - {begin}) / {self.step // timedelta(seconds=1)})::integer"

    def number(self, time: str) -> str:
        """Number of a step since 1970."""
        if self.step == DAY:
            return f"({_day(time)} - DATE '1970-01-01')::bigint"
        return f"(extract(epoch FROM {time}) / {self.step // timedelta(seconds=1)})::bigint"

    def numbered(self, number: str) -> str:
        """The begin of the step with this number."""
        if self.step == DAY:
            return f"day_begin(TIMESTAMP '1970-01-01' + {number} * INTERVAL '1 day', k.timezone)"
        return f"to_timestamp({number} * {self.step // timedelta(seconds=1)})"

    def even(self, time: str) -> str:
        """A time; of days their dates at 00:00 UTC, so that all have 24 hours."""
        return f"({_day(time)})::timestamp AT TIME ZONE 'UTC'" if self.step == DAY else time

    def since(self, time: str) -> str:
        """The begin of the first day that begins at a time or later, as `even` has it; of other steps the time."""
        if self.step != DAY:
            return time
        begin = self.begin(time)
        return f"({_day(begin)} + ({begin} < {time})::integer)::timestamp AT TIME ZONE 'UTC'"

    def rows(self, first: str, end: str, farthest: int = 0, nearest: int = 0) -> str:
        """The times from `farthest` steps before the first row in [first, end) to `nearest` before the last."""
        if self.step == DAY:
            return f"days_between({first}, {end}, k.timezone, {farthest}, {nearest})"
        return f"generate_series({self.before(first, farthest)}, {self.before(end, nearest + 1)}, INTERVAL '{self.interval}')"

    def readings(self, first: str, end: str, bounds: str) -> str:
        """Query of the statistics of each step in [first, end) that has readings."""
        if self.step == HOUR:
            return _HOURS.format(first=first, end=end, bounds=bounds)
        bounds = bounds.replace("hourly.hour", "quarters.quarter")
        if self.step == _QUARTER:
            return _QUARTERS.format(columns=_QUARTER_COLUMNS, first=first, end=end, bounds=bounds)
        columns = _MERGED_COLUMNS.format(begin=self.begin("quarter"))
        return f"{_QUARTERS.format(columns=columns, first=first, end=end, bounds=bounds)}\nGROUP BY 1"

    @property
    def meaning(self) -> str:
        """The function that makes values of such statistics, named `hourly`."""
        if self.step == HOUR:
            return _HOUR_VALUE
        return _STEP_VALUE.format(seconds=self.step // timedelta(seconds=1))


def _day(time: str) -> str:
    return f"(({time}) AT TIME ZONE k.timezone)::date"

"""What features must be, the slow and obvious way: plain Python over plain lists, no SQL."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)

Value = float | None


@dataclass(frozen=True)
class Weather:
    """One row of weather as it is written."""

    valid_at: datetime
    available_at: datetime
    temperature: float | None = None
    humidity: float | None = None
    solar_irradiance: float | None = None
    wind_speed: float | None = None


@dataclass(frozen=True)
class Issue:
    """One value of an external series as it is written."""

    valid_at: datetime
    available_at: datetime
    value: float


@dataclass
class Asset:
    """Everything known of one asset; `readings` by time."""

    zone: str = "UTC"
    readings: dict[datetime, float] = field(default_factory=dict)
    weather: list[Weather] = field(default_factory=list)
    #: External series that it uses, by the column `name@key`.
    series: dict[str, list[Issue]] = field(default_factory=dict)
    #: Other members of its group; None: it is in none.
    others: list[Asset] | None = None
    #: When readings arrived, of those that say it, by their time.
    arrived: dict[datetime, datetime] = field(default_factory=dict)

    def values(self, start: datetime, end: datetime) -> list[float]:
        """Readings in [start, end)."""
        return [value for time, value in self.readings.items() if start <= time < end]

    def mean(self, start: datetime, end: datetime) -> Value:
        """Mean of the readings in [start, end)."""
        values = self.values(start, end)
        return statistics.mean(values) if values else None

    def lag(self, hour: datetime, hours: int) -> Value:
        """Mean of the one hour that begins `hours` before `hour`."""
        return self.mean(hour - hours * HOUR, hour - (hours - 1) * HOUR)

    def window(self, hour: datetime, hours: int) -> tuple[Value, Value, Value, Value, int]:
        """Mean, sample deviation, minimum, maximum and count of [hour - hours, hour)."""
        values = self.values(hour - hours * HOUR, hour)
        if not values:
            return None, None, None, None, 0
        deviation = statistics.stdev(values) if len(values) >= 2 else None
        return statistics.mean(values), deviation, min(values), max(values), len(values)

    def forecast(self, hour: datetime, name: str) -> Value:
        """Newest value that was available at `hour` and valid in the six hours up to it."""
        usable = [
            w
            for w in self.weather
            if hour - 6 * HOUR < w.valid_at <= hour
            and w.available_at <= hour
            and getattr(w, name) is not None
        ]
        newest = max(usable, key=lambda w: (w.valid_at, w.available_at), default=None)
        return None if newest is None else getattr(newest, name)

    def issued(self, start: datetime, end: datetime, column: str, known_at: datetime) -> Value:
        """Mean over [start, end) of an external series of the newest issues that were available at a time."""
        first, last = floor_hour(start), max(end, floor_hour(start) + HOUR)
        issues = [
            issue
            for issue in self.series.get(column, [])
            if first <= issue.valid_at < last and issue.available_at <= known_at
        ]
        issues.sort(key=lambda issue: issue.available_at)
        newest = {issue.valid_at: issue.value for issue in issues}
        if end - start < HOUR:
            # a value lasts until the next one in hours that are divided into whole steps
            of_hour = sorted(at for at in newest if floor_hour(at) == floor_hour(start))
            even = [floor_hour(start) + HOUR * part / len(of_hour) for part in range(len(of_hour))]
            if of_hour and of_hour == even and HOUR // (end - start) % len(of_hour) == 0:
                return newest[max(at for at in of_hour if at < end)]
        values = [value for at, value in newest.items() if start <= at < end]
        return statistics.fmean(values) if values else None

    def total(self, start: datetime, end: datetime) -> Value:
        """Sum of the group's values in [start, end); None where a member that has begun has none."""
        if self.others is None:
            return None
        begun = [
            member
            for member in (self, *self.others)
            if member.readings and floor_hour(min(member.readings)) <= start
        ]
        values = [member.mean(start, end) for member in begun]
        return None if not values or None in values else sum(value for value in values if value is not None)

    def hours(self, now: datetime) -> list[datetime]:
        """Hours that have a feature row: 24 after each reading, and those to the next one within a week."""
        read = sorted({floor_hour(time) for time in self.readings if time <= now + 200 * HOUR})
        found = set()
        for hour, following in zip(read, [*read[1:], None], strict=True):
            is_near = following is not None and following - hour <= 168 * HOUR
            until = following if is_near else hour + 24 * HOUR
            assert until is not None
            found |= {hour + step * HOUR for step in range(1, int((until - hour) / HOUR) + 1)}
        return sorted(hour for hour in found if hour <= now)

    def row(self, hour: datetime) -> dict[str, Value]:
        """The features of one hour."""
        mean, deviation, least, greatest, _ = self.window(hour, 24)
        local = hour.astimezone(ZoneInfo(self.zone))
        return {
            "hour_of_day": local.hour,
            "day_of_week": local.weekday(),
            "day_of_month": local.day,
            "month": local.month,
            "is_weekend": int(local.weekday() in {5, 6}),
            "historical_avg_24h": mean,
            "historical_std_24h": deviation,
            "historical_min_24h": least,
            "historical_max_24h": greatest,
            "lag_1h": self.lag(hour, 1),
            "lag_24h": self.lag(hour, 24),
            "lag_168h": self.lag(hour, 168),
            **{name: self.forecast(hour, name) for name in ("temperature", "humidity", "solar_irradiance")},
        }


def same(got: Value, want: Value, scale: float) -> bool:
    """Whether both are missing, or equal up to rounding of readings as large as `scale`."""
    if got is None or want is None:
        return got is want
    return abs(got - want) <= 1e-9 * max(abs(want), scale)


def floor_hour(time: datetime) -> datetime:
    """Begin of the hour `time` is in."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

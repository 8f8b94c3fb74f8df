"""What a declared feature must be, the slow and obvious way: from the JSON form of its expression, no SQL."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from oracles.features import HOUR, Asset, floor_hour

DAY = timedelta(days=1)
Value = float | int | str | None


@dataclass
class Oracle:
    """Evaluates expressions for one asset at the clock's hour `now`; rows come every `step`."""

    asset: Asset
    now: datetime
    #: of the register
    attributes: Mapping[str, Value]
    step: timedelta = HOUR

    def rows(self, now: datetime) -> list[datetime]:
        """Times that have a row: those of the hours that have one, and the midnights in them."""
        hours = self.asset.hours(floor_hour(now))
        if self.step == DAY:
            # one hour longer than others, for days of 25 hours
            hours = sorted({*hours, *(hour + HOUR for hour in hours)})
            midnights = [self._begin(hour + timedelta(minutes=59)) for hour in hours]
            return [each for hour, each in zip(hours, midnights, strict=True) if hour <= each <= now]
        times = [hour + part * self.step for hour in hours for part in range(HOUR // self.step)]
        return [each for each in times if each <= now]

    def _begin(self, at: datetime) -> datetime:
        """The begin of the step that `at` is in."""
        if self.step == DAY:
            return self._before(at, 0)
        return at.astimezone(UTC) - (at - datetime(1970, 1, 1, tzinfo=UTC)) % self.step

    def _before(self, begin: datetime, steps: int) -> datetime:
        """The begin of the step that is so many steps before another one."""
        if self.step < DAY:
            return begin - steps * self.step
        zone = ZoneInfo(self.asset.zone)
        day = begin.astimezone(zone).date() - timedelta(days=steps)
        return datetime.combine(day, time(), zone).astimezone(UTC)

    @cached_property
    def _readings(self) -> dict[datetime, list[float]]:
        """Readings of each step that has any."""
        found: dict[datetime, list[float]] = {}
        for at, value in self.asset.readings.items():
            found.setdefault(self._begin(at), []).append(value)
        return found

    @cached_property
    def _values(self) -> dict[tuple[datetime, str, datetime], float | None]:
        return {}

    def row(self, hour: datetime, features: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
        """The features of the row at `hour`."""
        return {name: self.value(hour, expression) for name, expression in features.items()}

    def value(  # noqa: PLR0911  # one a kind
        self, hour: datetime, of: Mapping[str, Any]
    ) -> Value:
        """One expression in the row at `hour`."""
        kind = of["kind"]
        if kind in {"calendar", "asset", "sun", "holiday"}:
            return self._of_register(hour, of)
        if kind in {"difference", "ratio"}:
            left, right = self.value(hour, of["left"]), self.value(hour, of["right"])
            if left is None or right is None:
                return None
            assert isinstance(left, float | int)
            assert isinstance(right, float | int)
            return difference(left, right) if kind == "difference" else ratio(left, right)
        if kind == "weather":
            return self._hour(hour, of["column"], hour)
        if kind == "series":
            return self._hour(hour, f"{of['name']}@{of['by']}", hour)
        if kind == "lag":
            return self._hour(self._before(hour, self._steps(of["lag"])), of["column"], hour)
        if kind == "degree_hours":
            return self._degree_hours(hour, of)
        if kind == "quantile":
            return self._quantile(hour, of)
        ago = (
            range(1, self._steps(of["time_window"]) + 1)
            if kind == "window"
            else [self._steps(24 * of.get("every", 1)) * day for day in range(1, of["days"] + 1)]
        )
        hours = [self._before(hour, steps) for steps in reversed(ago)]
        return self._merged(hours, of["column"], of["function"], hour)

    def _steps(self, hours: float) -> int:
        steps = hours * HOUR / self.step
        assert steps == int(steps)
        return int(steps)

    def _of_register(self, hour: datetime, of: Mapping[str, Any]) -> Value:
        """What depends on the time and the asset's entry in the register alone."""
        kind = of["kind"]
        local = hour.astimezone(ZoneInfo(self.asset.zone))
        if kind == "calendar":
            return {
                "hour_of_day": local.hour,
                "day_of_week": local.weekday(),
                "day_of_month": local.day,
                "day_of_year": local.timetuple().tm_yday,
                "month": local.month,
                "is_weekend": int(local.weekday() >= 5),
                "local_time": int(local.replace(tzinfo=UTC).timestamp()),
            }[of["part"]]
        if kind == "asset":
            return self.attributes[of["column"]]
        if kind == "sun":
            place = self.attributes.get("latitude"), self.attributes.get("longitude")
            return None if None in place else sun(hour, *place)[of["part"]]  # type: ignore[arg-type]
        return int(is_german_holiday(local.date()))

    def _hour(self, hour: datetime, column: str, row: datetime) -> float | None:
        """Value of the step that begins then, as a row knows it: only of series rows know different ones."""
        is_series = "@" in column and column != "value@group"
        key = hour, column, row if is_series else hour
        if key not in self._values:
            self._values[key] = self._of_step(*key)
        return self._values[key]

    def _of_step(self, hour: datetime, column: str, row: datetime) -> float | None:
        if column == "value":
            values = self._readings.get(hour)
            return statistics.fmean(values) if values else None
        if column == "value@group":
            return self.asset.total(hour, self._before(hour, -1))
        if "@" in column:
            return self.asset.issued(hour, self._before(hour, -1), column, row)
        return self.asset.forecast(hour, column)

    def _merged(self, hours: list[datetime], column: str, function: str, row: datetime) -> Value:
        """A function over all readings in these steps, which are in order; first and last are of steps."""
        if column != "value" and "@" not in column and not self._is_weather_kept(hours[0]):
            return None
        of_hours = [value for hour in hours if (value := self._hour(hour, column, row)) is not None]
        values = (
            [value for hour in hours for value in self._readings.get(hour, ())]
            if column == "value"
            else of_hours
        )
        if function == "count":
            return len(values)
        if not values:
            return None
        if function == "std":
            return statistics.stdev(values) if len(values) >= 2 else None
        found: dict[str, float] = {
            "mean": statistics.fmean(values),
            "min": min(values),
            "max": max(values),
            # of weather it is in hours
            "sum": sum(values) * (1 if column == "value" or "@" in column else self.step / HOUR),
            "first": of_hours[0],
            "last": of_hours[-1],
        }
        return found[function]

    def _quantile(self, hour: datetime, of: Mapping[str, Any]) -> float | None:
        """Between the two values that the position falls between, counted from the least one."""
        column = of["column"]
        hours = [self._before(hour, steps) for steps in range(1, self._steps(of["time_window"]) + 1)]
        if column != "value" and "@" not in column and not self._is_weather_kept(hours[-1]):
            return None
        values = sorted(value for each in hours if (value := self._hour(each, column, hour)) is not None)
        if not values:
            return None
        position = of["quantile"] * (len(values) - 1)
        below = int(position)
        above = min(below + 1, len(values) - 1)
        return values[below] + (position - below) * (values[above] - values[below])

    def _degree_hours(self, hour: datetime, of: Mapping[str, Any]) -> float | None:
        hours = [self._before(hour, steps) for steps in range(1, self._steps(of["time_window"]) + 1)]
        degrees = [self._hour(each, "temperature", hour) for each in hours]
        if not self._is_weather_kept(hours[-1]):
            return None
        sign = 1 if of["direction"] == "heating" else -1
        total = 0.0
        for each in degrees:
            if each is None:
                return None
            total += max(0.0, sign * (of["base"] - each))
        return total * (self.step / HOUR)

    def _is_weather_kept(self, hour: datetime) -> bool:
        """Whether weather of the hour cannot have been deleted by its age of a year."""
        kept_since = floor_hour(year_before(self.now)) + 7 * HOUR
        return hour >= kept_since


def difference(left: float, right: float) -> float | None:
    """Unknown beyond a double, not infinite."""
    return left - right if math.isfinite(left - right) else None


def ratio(left: float, right: float) -> float | None:
    """Unknown beyond a double, neither infinite nor 0."""
    found = None if right == 0 else left / right
    return found if found is not None and math.isfinite(found) and (found != 0 or left == 0) else None


def year_before(at: datetime) -> datetime:
    """The same time one year before, as PostgreSQL has it."""
    at = at.astimezone(UTC)
    if (at.month, at.day) == (2, 29):
        return at.replace(year=at.year - 1, day=28)
    return at.replace(year=at.year - 1)


def is_german_holiday(day: date) -> bool:
    """Whether a day of 2025 to 2027 is a holiday in all of Germany (dates by hand)."""
    easter = {2025: date(2025, 4, 20), 2026: date(2026, 4, 5), 2027: date(2027, 3, 28)}[day.year]
    moving = {easter + timedelta(days=days) for days in (-2, 1, 39, 50)}
    return day in moving or (day.month, day.day) in {(1, 1), (5, 1), (10, 3), (12, 25), (12, 26)}


def sun(time: datetime, latitude: float, longitude: float) -> dict[str, float]:
    """Elevation and azimuth in degrees by the Astronomical Almanac, without refraction."""
    days = (time - datetime(2000, 1, 1, 12, tzinfo=UTC)) / timedelta(days=1)
    anomaly = math.radians((357.528 + 0.9856003 * days) % 360)
    mean = 280.460 + 0.9856474 * days
    ecliptic = math.radians((mean + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly)) % 360)
    tilt = math.radians(23.439 - 0.0000004 * days)
    declination = math.asin(math.sin(tilt) * math.sin(ecliptic))
    ascension = math.degrees(math.atan2(math.cos(tilt) * math.sin(ecliptic), math.cos(ecliptic)))
    sidereal = 280.46061837 + 360.98564736629 * days + longitude
    angle, north = math.radians((sidereal - ascension) % 360), math.radians(latitude)
    height = math.sin(north) * math.sin(declination)
    height += math.cos(north) * math.cos(declination) * math.cos(angle)
    south = math.cos(angle) * math.sin(north) - math.tan(declination) * math.cos(north)
    return {
        "elevation": math.degrees(math.asin(height)),
        "azimuth": math.degrees(math.atan2(math.sin(angle), south)) + 180,
    }

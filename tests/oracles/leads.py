"""What features of targets must be, the slow and obvious way: one step of one issue at a time, no SQL."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from oracles.declared import DAY, difference, is_german_holiday, ratio, sun
from oracles.features import HOUR, Asset, Weather

Value = float | None


def wind_power(speed: float, of: Mapping[str, Any]) -> float:
    """Part of the rated power of a turbine."""
    at_hub = speed * math.pow(of["hub_height"] / of["measured_at"], of["shear"])
    if at_hub <= of["cut_in"] or at_hub >= of["cut_out"]:
        return 0.0
    if at_hub >= of["rated"]:
        return 1.0
    least, most = of["cut_in"] ** 3, of["rated"] ** 3
    return (at_hub * at_hub * at_hub - least) / (most - least)


@dataclass
class LeadsOracle:
    """Features of targets of one asset, whose readings are available so long after the end of their step.

    Where some of its readings, or of its group, say when they arrived, a step is known with the last of its
    readings.
    """

    asset: Asset
    step: timedelta
    available_after: timedelta
    latitude: float | None = None
    longitude: float | None = None
    #: rows that there are: without the one after it, a step has no value
    rows: AbstractSet[datetime] | None = None

    def array(self, issue: datetime, of: Mapping[str, Any], leads: int) -> list[Value]:
        """A feature of each step from the issue on."""
        return [self.value(issue, issue + lead * self.step, of) for lead in range(leads)]

    def value(  # noqa: C901, PLR0911  # one a kind
        self, issue: datetime, target: datetime, of: Mapping[str, Any]
    ) -> Value:
        """A feature of the step that begins at `target`, as it was known at the issue."""
        kind = of["kind"]
        if kind in {"difference", "ratio"}:
            left, right = (self.value(issue, target, of[side]) for side in ("left", "right"))
            if left is None or right is None:
                return None
            return difference(left, right) if kind == "difference" else ratio(left, right)
        if kind == "weather":
            return self.known(issue, target, of["column"])
        if kind == "wind_power":
            speed = self.known(issue, target, "wind_speed")
            return None if speed is None else wind_power(speed, of)
        if kind == "series":
            return self.known(issue, target, f"{of['name']}@{of['by']}")
        if kind == "lag":
            return self.known(issue, target - of["lag"] * HOUR, of["column"])
        if kind == "degree_hours":
            return self._degree_hours(issue, target, of)
        if kind == "same_hour":
            return self._same_hour(issue, target, of)
        local = target.astimezone(ZoneInfo(self.asset.zone))
        if kind == "holiday":
            return float(is_german_holiday(local.date()))
        if kind == "sun":
            if self.latitude is None or self.longitude is None:
                return None
            return sun(target, self.latitude, self.longitude)[of["part"]]
        assert kind == "calendar"
        return float(
            {
                "hour_of_day": local.hour,
                "day_of_week": local.weekday(),
                "day_of_month": local.day,
                "day_of_year": local.timetuple().tm_yday,
                "month": local.month,
                "is_weekend": local.weekday() >= 5,
                "local_time": local.replace(tzinfo=UTC).timestamp(),
            }[of["part"]]
        )

    @cached_property
    def known_at(self) -> dict[datetime, datetime] | None:
        """When each step with readings was known, by its begin; None: no reading says when it arrived."""
        members = [self.asset, *(self.asset.others or ())]
        if not any(member.arrived for member in members):
            return None
        found: dict[datetime, datetime] = {}
        for member in members:
            for at in member.readings:
                begin = at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % self.step
                end = begin + self.step
                arrived = member.arrived.get(at, end + self.available_after)
                found[begin] = max(found.get(begin, end), arrived)
        return found

    def newest(self, issue: datetime) -> datetime | None:
        """Begin of the newest step that was known at the issue."""
        if self.known_at is None:
            end = issue - self.available_after
            return end - (end - datetime(1970, 1, 1, tzinfo=UTC)) % self.step - self.step
        if issue not in self._newest:
            known = [begin for begin, known in self.known_at.items() if known <= issue]
            self._newest[issue] = max(known, default=None)
        return self._newest[issue]

    @cached_property
    def _newest(self) -> dict[datetime, datetime | None]:
        return {}

    def is_late(self, issue: datetime, begin: datetime) -> bool:
        """Whether a step has readings of which one arrived after the issue."""
        return self.known_at is not None and self.known_at.get(begin, issue) > issue

    def is_available(self, issue: datetime, begin: datetime) -> bool:
        """Whether a step was not newer than what was there at the issue."""
        newest = self.newest(issue)
        return newest is not None and begin <= newest

    def known(self, issue: datetime, begin: datetime, column: str) -> Value:
        """Value of the step that begins then, as it was known at the issue."""
        key = issue, begin, column
        if key not in self._known:
            self._known[key] = self._value(*key)
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[datetime, datetime, str], Value]:
        return {}

    def _value(self, issue: datetime, begin: datetime, column: str) -> Value:
        end = begin + self.step
        if column in {"value", "value@group"}:
            is_there = self.is_available(issue, begin) and not self.is_late(issue, begin)
            if not is_there or (self.rows is not None and end not in self.rows):
                return None
            if column == "value@group":
                if begin not in self._totals:
                    self._totals[begin] = self.asset.total(begin, end)
                return self._totals[begin]
            values = self._readings.get(begin)
            return statistics.fmean(values) if values else None
        if "@" in column:
            return self.asset.issued(begin, end, column, issue)
        first = begin - 6 * HOUR
        usable = [row for row in self._weather(issue, column) if first < row.valid_at <= begin]
        newest = max(usable, key=lambda row: (row.valid_at, row.available_at), default=None)
        return None if newest is None else float(getattr(newest, column))

    @cached_property
    def _totals(self) -> dict[datetime, Value]:
        return {}

    def _weather(self, issue: datetime, column: str) -> list[Weather]:
        """Rows of weather with this column that were there at the issue."""
        if (issue, column) not in self._weather_of:
            self._weather_of[issue, column] = [
                row
                for row in self.asset.weather
                if row.available_at <= issue and getattr(row, column) is not None
            ]
        return self._weather_of[issue, column]

    @cached_property
    def _weather_of(self) -> dict[tuple[datetime, str], list[Weather]]:
        return {}

    @cached_property
    def _readings(self) -> dict[datetime, list[float]]:
        """Readings of each step that has any."""
        found: dict[datetime, list[float]] = {}
        for at, value in self.asset.readings.items():
            begin = at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % self.step
            found.setdefault(begin, []).append(value)
        return found

    def _degree_hours(self, issue: datetime, target: datetime, of: Mapping[str, Any]) -> Value:
        total = 0.0
        for ago in range(1, round(of["time_window"] * HOUR / self.step) + 1):
            degrees = self.known(issue, target - ago * self.step, "temperature")
            if degrees is None:
                return None
            total += max(0.0, of["base"] - degrees if of["direction"] == "heating" else degrees - of["base"])
        return total * (self.step / HOUR)

    def _same_hour(self, issue: datetime, target: datetime, of: Mapping[str, Any]) -> Value:
        every = of.get("every", 1) * DAY
        begin = target - every
        if of["column"] in {"value", "value@group"}:
            while not self.is_available(issue, begin):
                begin -= every
        begins = [begin - ago * every for ago in reversed(range(of["days"]))]
        values = [value for each in begins if (value := self.known(issue, each, of["column"])) is not None]
        function = of["function"]
        if function == "count":
            return float(len(values))
        if not values:
            return None
        if function == "std":
            return statistics.stdev(values) if len(values) >= 2 else None
        # the assets of tests say nothing of their unit, so sums of readings are plain
        hours = 1.0 if of["column"] == "value" or "@" in of["column"] else self.step / HOUR
        return {
            "mean": statistics.fmean(values),
            "min": min(values),
            "max": max(values),
            "sum": math.fsum(values) * hours,
            "first": values[0],
            "last": values[-1],
        }[function]

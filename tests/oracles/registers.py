"""What a register counted, the slow and obvious way: plain Python over its readings in order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_WORST = ("good", "estimated", "suspect")


@dataclass(frozen=True)
class Register:
    """What is known of the meter."""

    digits: int | None = None
    capacity: float | None = None
    interval_s: int | None = None

    def has_rolled(self, before: float, after: float) -> bool:
        """Whether a fall is a new round."""
        if self.digits is None or after >= before:
            return False
        end = 10.0**self.digits
        return before < end and end - before + after <= end / 10

    def expected(
        self, readings: dict[datetime, tuple[float, str]]
    ) -> tuple[dict[datetime, tuple[float, str, int]], dict[datetime, str]]:
        """Amount, quality and seconds of each interval, and the faults of others, by their beginnings."""
        times = sorted(readings)
        values = [readings[time][0] for time in times]
        amounts, faults = {}, {}
        for at, (begin, end) in enumerate(pairwise(times)):
            seconds = (end - begin).total_seconds()
            fault, counted = self._judge(values, at, seconds)
            if fault:
                faults[begin] = fault
            else:
                quality = max((readings[begin][1], readings[end][1]), key=_WORST.index)
                amounts[begin] = (counted, quality, round(seconds))
        return amounts, faults

    def _judge(self, values: Sequence[float], at: int, seconds: float) -> tuple[str, float]:
        before, after = values[at], values[at + 1]
        counted = after - before
        if self.has_rolled(before, after):
            counted += 10.0**self.digits  # type: ignore[operator]
        earlier = next((value for value in reversed(values[:at]) if value != before), None)
        later = next((value for value in values[at + 2 :] if value != after), None)
        checks: dict[str, Any] = {
            "digits": self.digits is not None and max(before, after) >= 10.0**self.digits,
            "fell": counted < 0,
            "back": before < after and earlier is not None and before < earlier <= after,
            "falls": before < after
            and later is not None
            and before <= later < after
            and not self.has_rolled(after, later),
            "capacity": self.capacity is not None
            and counted > 1.1 * self.capacity * max(seconds / (self.interval_s or 3600), 1),
            "gap": seconds > max(3600, 1.5 * (self.interval_s or 0)),
        }
        return next((name for name, is_so in checks.items() if is_so), ""), counted

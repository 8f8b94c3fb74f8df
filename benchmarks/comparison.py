"""One piece of work done by Feast's own classes, by ours, and at its floor, in the same run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Times, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STOCK, OURS, FLOOR = "stock", "ours", "floor"


@dataclass
class Comparison:
    """What was measured of one piece of work."""

    work: str
    #: what the floor is, in a few words
    floor: str
    sizes: dict[str, int]
    times: defaultdict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    #: peak MiB of a process that did the work once and nothing else, by variant
    peak_mib: dict[str, int] = field(default_factory=dict)
    #: a variant that did not finish, and the seconds it was given
    unfinished: dict[str, float] = field(default_factory=dict)

    def run_in_turns(self, works: Mapping[str, Callable[[], object]], rounds: int) -> None:
        """Measure each variant once a round, one after the other, so that noise hits all of them."""
        for number in range(rounds):
            order = list(works)
            for variant in order[:: -1 if number % 2 else 1]:
                self.times[variant].measure(works[variant])

    def record(self) -> dict[str, Any]:
        """What goes into the results; ratios of runs made in turns are medians of the ratios."""
        return {
            "work": self.work,
            "floor": self.floor,
            "sizes": self.sizes,
            "seconds": {variant: times.record() for variant, times in self.times.items()},
            "unfinished_s": self.unfinished,
            "ratios": {
                name: round(ratio, 3)
                for name, ratio in (
                    ("stock to ours", self._ratio(STOCK, OURS)),
                    ("ours to floor", self._ratio(OURS, FLOOR)),
                )
                if ratio is not None
            },
            "peak_mib": self.peak_mib,
        }

    def _ratio(self, numerator: str, denominator: str) -> float | None:
        if not {numerator, denominator} <= self.times.keys():
            return None
        above, below = self.times[numerator], self.times[denominator]
        if len(above.runs) == len(below.runs):
            return paired_ratio(above, below)
        return above.median / below.median

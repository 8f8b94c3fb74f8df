"""Gaps and stuck runs of one series, fed in order and in parts of whole blocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ai_hub.ingest.cadence import BLOCK, SECOND, Flags, Micros, gaps
from ai_hub.ingest.findings import Finding
from ai_hub.ingest.terms import FindingKind

if TYPE_CHECKING:
    from ai_hub.ingest.kinds import KindRule

#: Fewer equal readings are no stuck meter, however far apart they are.
FEWEST_STUCK = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(instant: datetime) -> int:
    """Microseconds since 1970."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def to_instant(micros: int) -> datetime:
    """The instant that many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=int(micros))


@dataclass(frozen=True)
class Run:
    """Consecutive readings with one value."""

    value: float
    first: int
    last: int
    readings: int


class Detector:
    """Finds gaps and stuck runs; how the series is cut into parts makes no difference."""

    def __init__(self, rule: KindRule, *, is_register: bool = False) -> None:
        self.found: list[Finding] = []
        #: The run the fed readings begin with, once it has ended.
        self.opening: Run | None = None
        #: The run they end with.
        self.closing: Run | None = None
        self._may_idle = rule.may_idle
        # one that counts as much as before is not stuck
        self._only_idle = is_register
        self._stuck_after = rule.stuck_after // timedelta(microseconds=1)
        self._context: Micros = np.empty(0, dtype=np.int64)

    def feed(self, times: Micros, values: npt.NDArray[np.float64]) -> None:
        """Go on with these readings, in ascending order; a block must not be cut."""
        if not len(times):
            return
        seen = len(self._context)
        with_context = np.concatenate([self._context, times])
        is_gap, interval = gaps(with_context)
        self._note_gaps(with_context, is_gap, interval, seen)
        steps = np.diff(with_context, prepend=with_context[:1])[seen:]
        self._note_runs(times, values, is_gap[seen:] & (steps > self._stuck_after))
        self._context = times[np.searchsorted(times // BLOCK, times[-1] // BLOCK) :]

    def finish(self) -> list[Finding]:
        """Everything found, in order of time; a run that has not ended counts as long as it is."""
        if self.closing:
            self.opening = self.opening or self.closing
            self._note_stuck(self.closing)
        return sorted(self.found, key=lambda each: (each.first, each.kind))

    def idles(self, run: Run) -> bool:
        """Whether the run is nothing worth mentioning, however long it is."""
        return self._may_idle if run.value == 0 else self._only_idle

    def _note_gaps(self, times: Micros, is_gap: Flags, interval: Micros, seen: int) -> None:
        for index in np.flatnonzero(is_gap[seen:]) + seen:
            detail: dict[str, float | None] = {"missing": None, "interval_seconds": None}
            if expected := int(interval[index]):
                missing = round(int(times[index] - times[index - 1]) / expected) - 1
                detail = {"missing": missing, "interval_seconds": expected // SECOND}
            self.found.append(
                Finding(FindingKind.GAP, to_instant(times[index - 1]), to_instant(times[index]), detail)
            )

    def _note_runs(self, times: Micros, values: npt.NDArray[np.float64], cut: Flags) -> None:
        before = np.nan if self.closing is None else self.closing.value
        starts = np.flatnonzero((values != np.append(before, values[:-1])) | cut)
        firsts = times[starts]
        ends = np.append(starts[1:], len(times))
        lasts = times[ends - 1]
        carried = self.closing
        head = int(starts[0]) if len(starts) else len(times)
        if carried and head:
            carried = Run(carried.value, carried.first, int(times[head - 1]), carried.readings + head)
        if not len(starts):
            self.closing = carried
            return
        if carried:
            self._end(carried)
        long = np.flatnonzero((ends - starts >= FEWEST_STUCK) & (lasts - firsts >= self._stuck_after))
        runs = {
            int(at): Run(
                float(values[starts[at]]), int(firsts[at]), int(lasts[at]), int(ends[at] - starts[at])
            )
            for at in {0, len(starts) - 1, *long.tolist()}
        }
        *ended, last = sorted(runs)
        for at in ended:
            self._end(runs[at])
        self.closing = runs[last]

    def _end(self, run: Run) -> None:
        self.opening = self.opening or run
        self._note_stuck(run)

    def _note_stuck(self, run: Run) -> None:
        if run.readings < FEWEST_STUCK or run.last - run.first < self._stuck_after or self.idles(run):
            return
        detail = {
            "value": run.value,
            "readings": run.readings,
            "hours": round((run.last - run.first) / (3600 * SECOND), 2),
        }
        self.found.append(Finding(FindingKind.STUCK, to_instant(run.first), to_instant(run.last), detail))

"""Detection of gaps, stuck runs and register-like stretches in one series, fed in parts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ai_hub.ingest.findings import Finding
from ai_hub.ingest.options import FindingKind
from ai_hub.times import SECOND, Flags, Micros, from_micros

if TYPE_CHECKING:
    from ai_hub.ingest.units import KindRule

#: A week, counted from 1970. Readings are compared within their block only, so that blocks can be checked
#: independently.
BLOCK = 7 * 86_400 * SECOND
_FEWEST_STEPS = 3
_TOLERANCE = 0.1
_GAP_INTERVALS = 1.5
_GAP_MEDIANS = 10
_STRETCH = 12
UNKNOWN = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Cadence:
    """The usual step between the readings of one block, in microseconds."""

    #: Most frequent step; 0 where the series is irregular or too short.
    interval: int = 0
    #: A longer step is a gap; `UNKNOWN` where the block is too short.
    longest: int = UNKNOWN


def cadence(steps: Micros) -> Cadence:
    """The cadence of a block from the steps between its readings.

    Regular, if at least half of the steps are within 10 % of the most frequent one (in whole seconds): a gap
    is longer than 1.5 of it. Irregular otherwise: a gap is longer than ten median steps.
    """
    if len(steps) < _FEWEST_STEPS:
        return Cadence()
    seconds = (steps + SECOND // 2) // SECOND
    lengths, counts = np.unique(seconds, return_counts=True)
    commonest = int(lengths[counts.argmax()])
    if commonest == 0:
        return Cadence()
    near = np.abs(seconds - commonest) <= commonest * _TOLERANCE
    if near.mean() * 2 >= 1:
        return Cadence(commonest * SECOND, int(commonest * SECOND * _GAP_INTERVALS))
    return Cadence(0, int(np.median(steps) * _GAP_MEDIANS))


def steady(steps: Micros) -> Flags:
    """Steps within twelve or more equal ones: a cadence of its own, as after a change of meter."""
    seconds = (steps + SECOND // 2) // SECOND
    starts = np.flatnonzero(np.diff(seconds, prepend=-1))
    lengths = np.diff(starts, append=len(seconds))
    return np.repeat(lengths >= _STRETCH, lengths)


def gaps(times: Micros) -> tuple[Flags, Micros]:
    """Whether the step before each reading is a gap, and the expected interval there (0: unknown).

    `times` are whole blocks. A step between two blocks is compared with the first one's cadence, or with the
    second one's where the first is too short.
    """
    blocks = times // BLOCK
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    ends = np.append(starts[1:], len(times))
    steps = np.diff(times, prepend=times[:1])
    cadences = [cadence(steps[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]
    interval = np.repeat([item.interval for item in cadences], ends - starts)
    longest = np.repeat([item.longest for item in cadences], ends - starts)
    firsts = starts[1:]
    by_start = longest[firsts - 1] != UNKNOWN
    interval[firsts] = np.where(by_start, interval[firsts - 1], interval[firsts])
    longest[firsts] = np.where(by_start, longest[firsts - 1], longest[firsts])
    is_gap = steps > longest
    for start, end in zip(starts, ends, strict=True):
        inner = slice(start + 1, end)
        if is_gap[inner].any():
            is_gap[inner] &= ~steady(steps[inner])
    return is_gap, interval


#: Least number of equal readings of a stuck meter.
FEWEST_STUCK = 4


@dataclass(frozen=True)
class Run:
    """Consecutive readings of one value; times in microseconds since 1970."""

    value: float
    first: int
    last: int
    readings: int


class Detector:
    """Finds gaps and stuck runs of one series. The result does not depend on how it is split into parts."""

    def __init__(self, rule: KindRule, *, is_register: bool = False) -> None:
        self.findings: list[Finding] = []
        #: First run, once it has ended.
        self.opening: Run | None = None
        #: Last run, which may continue.
        self.closing: Run | None = None
        self._may_idle = rule.may_idle
        # A register that does not advance is not stuck.
        self._always_idle = is_register
        self._stuck_after = rule.stuck_after // timedelta(microseconds=1)
        self._context: Micros = np.empty(0, dtype=np.int64)

    def feed(self, times: Micros, values: npt.NDArray[np.float64]) -> None:
        """Add readings in ascending order (µs since 1970); a part must end at the end of a block."""
        if not len(times):
            return
        context_length = len(self._context)
        with_context = np.concatenate([self._context, times])
        is_gap, interval = gaps(with_context)
        self._note_gaps(with_context, is_gap, interval, context_length)
        steps = np.diff(with_context, prepend=with_context[:1])[context_length:]
        self._note_runs(times, values, is_gap[context_length:] & (steps > self._stuck_after))
        self._context = times[np.searchsorted(times // BLOCK, times[-1] // BLOCK) :]

    def finish(self) -> list[Finding]:
        """All findings in order of time; the last run counts with its present length."""
        if self.closing:
            self.opening = self.opening or self.closing
            self._note_stuck(self.closing)
        return sorted(self.findings, key=lambda finding: (finding.first, finding.kind))

    def is_idle(self, run: Run) -> bool:
        """Whether a run of this value is normal at any length."""
        return self._may_idle if run.value == 0 else self._always_idle

    def _note_gaps(self, times: Micros, is_gap: Flags, interval: Micros, context_length: int) -> None:
        for index in np.flatnonzero(is_gap[context_length:]) + context_length:
            detail: dict[str, float | None] = {"missing": None, "interval_seconds": None}
            if expected := int(interval[index]):
                missing = round(int(times[index] - times[index - 1]) / expected) - 1
                detail = {"missing": missing, "interval_seconds": expected // SECOND}
            self.findings.append(
                Finding(FindingKind.GAP, from_micros(times[index - 1]), from_micros(times[index]), detail)
            )

    def _note_runs(self, times: Micros, values: npt.NDArray[np.float64], cut: Flags) -> None:
        before = np.nan if self.closing is None else self.closing.value
        starts = np.flatnonzero((values != np.append(before, values[:-1])) | cut)
        firsts = times[starts]
        ends = np.append(starts[1:], len(times))
        lasts = times[ends - 1]
        open_run = self.closing
        head = int(starts[0]) if len(starts) else len(times)
        if open_run and head:
            open_run = Run(open_run.value, open_run.first, int(times[head - 1]), open_run.readings + head)
        if not len(starts):
            self.closing = open_run
            return
        if open_run:
            self._end(open_run)
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
        if run.readings < FEWEST_STUCK or run.last - run.first < self._stuck_after or self.is_idle(run):
            return
        detail = {
            "value": run.value,
            "readings": run.readings,
            "hours": round((run.last - run.first) / (3600 * SECOND), 2),
        }
        self.findings.append(
            Finding(FindingKind.STUCK, from_micros(run.first), from_micros(run.last), detail)
        )


#: Within less time, solar power or a temperature may only rise, too.
_LONG = timedelta(hours=20) // timedelta(microseconds=1)
#: A series with fewer changes is stuck or idle.
_FEWEST_RISES = 12


class RegisterDetector:
    """Finds the longest stretch that never falls: most likely a register that was ingested as amounts."""

    def __init__(self) -> None:
        self.longest: Finding | None = None
        #: Last stretch, which may continue: first time and value, number of readings and of rises.
        self._open: tuple[int, float, int, int] | None = None
        self._last = -np.inf

    def feed(self, times: Micros, values: npt.NDArray[np.float64]) -> None:
        """Add readings in ascending order."""
        if not len(times):
            return
        steps = np.diff(values, prepend=self._last)
        rises = np.cumsum(steps > 0)
        starts = np.flatnonzero(steps < 0)
        open_stretch = self._open
        if open_stretch is None:
            open_stretch = (int(times[0]), float(values[0]), 0, -1)
        starts = np.concatenate([[0], starts[starts > 0]]) if steps[0] >= 0 else starts
        ends = np.append(starts[1:], len(times))
        firsts, first_values = times[starts].copy(), values[starts].copy()
        readings = ends - starts
        # the step into a stretch is a fall, and is not counted
        rise_counts = rises[ends - 1] - rises[starts]
        if steps[0] >= 0:
            firsts[0], first_values[0] = open_stretch[0], open_stretch[1]
            readings[0] += open_stretch[2]
            rise_counts[0] = rises[ends[0] - 1] + open_stretch[3]
        lasts = times[ends - 1]
        candidates = np.flatnonzero((rise_counts >= _FEWEST_RISES) & (lasts - firsts >= _LONG))
        if len(candidates):
            at = int(candidates[np.argmax(lasts[candidates] - firsts[candidates])])
            finding = Finding(
                FindingKind.LOOKS_LIKE_REGISTER,
                from_micros(firsts[at]),
                from_micros(lasts[at]),
                {
                    "readings": int(readings[at]),
                    "from": float(first_values[at]),
                    "to": float(values[ends[at] - 1]),
                },
            )
            if self.longest is None or finding.last - finding.first > self.longest.last - self.longest.first:
                self.longest = finding
        self._open = (int(firsts[-1]), float(first_values[-1]), int(readings[-1]), int(rise_counts[-1]))
        self._last = float(values[-1])

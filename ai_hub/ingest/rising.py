"""A series that never falls for long: most likely a register, ingested as if it were amounts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from ai_hub.ingest.detect import to_instant
from ai_hub.ingest.findings import Finding
from ai_hub.ingest.terms import FindingKind

if TYPE_CHECKING:
    import numpy.typing as npt

    from ai_hub.ingest.cadence import Micros

#: Shorter than this the sun may rise, or a house warm up.
_LONG = timedelta(hours=20) // timedelta(microseconds=1)
#: What hardly ever changes is stuck, or idle.
_FEWEST_RISES = 12


class Rising:
    """Finds the longest stretch that never falls; fed in order of time and in parts."""

    def __init__(self) -> None:
        self.longest: Finding | None = None
        #: The stretch that the readings so far end with: first time and value, readings, rises.
        self._open: tuple[int, float, int, int] | None = None
        self._last = -np.inf

    def feed(self, times: Micros, values: npt.NDArray[np.float64]) -> None:
        """Go on with these readings."""
        if not len(times):
            return
        steps = np.diff(values, prepend=self._last)
        rises = np.cumsum(steps > 0)
        starts = np.flatnonzero(steps < 0)
        carried = self._open
        if carried is None:
            carried = (int(times[0]), float(values[0]), 0, -1)
        starts = np.concatenate([[0], starts[starts > 0]]) if steps[0] >= 0 else starts
        ends = np.append(starts[1:], len(times))
        firsts, begins = times[starts].copy(), values[starts].copy()
        readings = ends - starts
        # the step into a stretch is a fall, and is not counted
        risen = rises[ends - 1] - rises[starts]
        if steps[0] >= 0:
            firsts[0], begins[0] = carried[0], carried[1]
            readings[0] += carried[2]
            risen[0] = rises[ends[0] - 1] + carried[3]
        lasts = times[ends - 1]
        enough = np.flatnonzero((risen >= _FEWEST_RISES) & (lasts - firsts >= _LONG))
        if len(enough):
            at = int(enough[np.argmax(lasts[enough] - firsts[enough])])
            found = Finding(
                FindingKind.LOOKS_LIKE_REGISTER,
                to_instant(firsts[at]),
                to_instant(lasts[at]),
                {
                    "readings": int(readings[at]),
                    "from": float(begins[at]),
                    "to": float(values[ends[at] - 1]),
                },
            )
            if self.longest is None or found.last - found.first > self.longest.last - self.longest.first:
                self.longest = found
        self._open = (int(firsts[-1]), float(begins[-1]), int(readings[-1]), int(risen[-1]))
        self._last = float(values[-1])

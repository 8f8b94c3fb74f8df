"""Time and memory of a piece of work."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

_SAMPLE_S = 0.2
_MIB = 1 << 20


@dataclass
class Times:
    """Seconds of repeated runs of the same work."""

    runs: list[float] = field(default_factory=list)

    def measure(self, work: Callable[[], object]) -> float:
        """Run `work` once, and record and return its seconds."""
        seconds = timed(work)
        self.runs.append(seconds)
        return seconds

    @property
    def median(self) -> float:
        """The median run."""
        return statistics.median(self.runs)

    def record(self) -> dict[str, Any]:
        """Record for the results."""
        return {
            "median": round(self.median, 5),
            "min": round(min(self.runs), 5),
            "max": round(max(self.runs), 5),
            "runs": len(self.runs),
        }


def timed(work: Callable[[], object]) -> float:
    """Seconds of `work`."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def own_peak_mib() -> int:
    """Peak memory of this process so far; `getrusage` counts that of the one it was started from, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def paired_ratio(numerator: Times, denominator: Times) -> float:
    """Median of the ratios of runs that were made one after the other, so that noise hits both."""
    return statistics.median(a / b for a, b in zip(numerator.runs, denominator.runs, strict=True))


class PeakMemory:
    """Peak of this process and of a server's processes while the block runs, in MiB.

    A server's pages that several processes share count once (PSS); with `own`, shared ones do not count.
    """

    def __init__(self, server_pid: int | None, *, own: bool = False) -> None:
        self._server_pid = server_pid
        self._kind = "Pss_Anon:" if own else "Pss:"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.client = 0.0
        self.server: float | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def record(self) -> dict[str, int]:
        """Record for the results."""
        peaks = {"client": round(self.client)}
        return peaks if self.server is None else peaks | {"server": round(self.server)}

    def _watch(self) -> None:
        while True:
            self.client = max(self.client, psutil.Process(os.getpid()).memory_info().rss / _MIB)
            if self._server_pid is not None:
                self.server = max(self.server or 0.0, _family(self._server_pid, self._kind) / _MIB)
            if self._ended.wait(_SAMPLE_S):
                return


def _family(pid: int, kind: str) -> int:
    """Memory of a process and its descendants; those that end meanwhile do not count."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123  # psutil reads all of smaps, a second for big processes
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
        except (OSError, StopIteration):
            continue
    return total

"""Time and memory of a piece of work, and its records in `results.json`."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from matplotlib.figure import Figure


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


ROOT = Path(__file__).resolve().parent.parent
#: Where the results of full runs are kept.
DOCS = ROOT / "docs" / "benchmarks"
#: Where those of small runs go, which nobody should compare.
SCRATCH = ROOT / "build" / "benchmarks"
_FILE = "results.json"
_KEY = ("benchmark", "server", "work")


def circumstances() -> dict[str, Any]:
    """Time, machine and commit of a record."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
        },
    }


def description(record: dict[str, Any]) -> dict[str, Any]:
    """Values of a report's placeholders about how a record was made."""
    machine = record["machine"]
    return {
        "cpus": machine["cpus"],
        "memory": machine["memory_gib"],
        "system": machine["system"],
        "versions": ", ".join(f"{what} {version}" for what, version in record["versions"].items()),
        **{name: record[name] for name in ("command", "commit", "measured_at")},
    }


def load(folder: Path) -> list[dict[str, Any]]:
    """All records in `folder`."""
    try:
        return list(json.loads((folder / _FILE).read_text()))
    except FileNotFoundError:
        return []


def store(folder: Path, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge `records` into the file and return all."""
    merged = {_key(record): record for record in load(folder)} | {_key(record): record for record in records}
    ordered = [merged[key] for key in sorted(merged)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(json.dumps(ordered, indent=2) + "\n")
    return ordered


def select(records: Iterable[dict[str, Any]], benchmark: str) -> list[dict[str, Any]]:
    """Records of one benchmark."""
    return [record for record in records if record["benchmark"] == benchmark]


def format_time(seconds: float | None) -> str:
    """Three digits, in the unit that suits."""
    if seconds is None:
        return ""
    return (
        f"{seconds:#.3g} s".replace(". ", " ")
        if seconds >= 1
        else f"{seconds * 1000:#.3g} ms".replace(". ", " ")
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure whose bytes depend on nothing but what it shows."""
    figure.savefig(path, metadata={"Date": None})
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def _key(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(record[name] for name in _KEY)

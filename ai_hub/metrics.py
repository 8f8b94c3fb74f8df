"""Counts of what requests do, added to Prometheus' metrics twenty times a second.

What several processes count is in a mapped file: the eight numbers that a request changes there take longer
than Redis takes to answer it. So it notes what it counts, and the notes are summed and added to the file now
and then.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter as Counts
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Histogram

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import Counter, Gauge

    Labels = tuple[str | int, ...]

_log = structlog.get_logger(__name__)
#: Seconds between two additions.
FLUSH_S: Final = 0.05
#: Notes after which whoever counts flushes: nothing else does where no service runs.
_MOST: Final = 100_000
#: What was counted or observed; threads may add to it and take from it without a lock.
_notes: Final[deque[tuple[Counter | Gauge | Histogram, Labels, float]]] = deque()


def count(metric: Counter | Gauge, labels: Labels = (), amount: float = 1) -> None:
    """Add to a counter or gauge."""
    _notes.append((metric, labels, amount))
    if len(_notes) > _MOST:
        flush()


def observe(metric: Histogram, labels: Labels, value: float) -> None:
    """Add a value to a histogram."""
    _notes.append((metric, labels, value))


def flush() -> None:
    """Add what was counted to the metrics."""
    counts: dict[tuple[Counter | Gauge, Labels], float] = {}
    observed: dict[tuple[Histogram, Labels], list[float]] = {}
    with suppress(IndexError):  # another thread takes some, too
        for _ in range(len(_notes)):
            metric, labels, value = _notes.popleft()
            if isinstance(metric, Histogram):
                observed.setdefault((metric, labels), []).append(value)
            else:
                counts[metric, labels] = counts.get((metric, labels), 0) + value
    for (metric, labels), amount in counts.items():
        (metric.labels(*labels) if labels else metric).inc(amount)
    for (histogram, labels), values in observed.items():
        child = histogram.labels(*labels)
        # prometheus_client adds one value at a time only
        bounds: list[float] = histogram._upper_bounds  # noqa: SLF001
        child._sum.inc(sum(values))  # noqa: SLF001
        for index, times in Counts(bisect_left(bounds, value) for value in values).items():
            child._buckets[index].inc(times)  # noqa: SLF001


@asynccontextmanager
async def flushed() -> AsyncIterator[None]:
    """Flush in this block every `FLUSH_S`, and at its end."""

    async def run() -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                flush()
            except Exception:  # noqa: BLE001  # such as a full disk; what comes later is counted
                _log.exception("metrics.flush_failed")

    task = asyncio.create_task(run(), name="metrics")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        flush()

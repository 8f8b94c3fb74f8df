"""Counts of what requests do, added to Prometheus' metrics twenty times a second.

What several processes count is in a mapped file: the eight numbers that a request changes there take longer
than Redis takes to answer it. So it changes dictionaries, which are added to the file now and then.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from contextlib import asynccontextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import Counter, Gauge, Histogram

    Labels = tuple[str | int, ...]

_log = structlog.get_logger(__name__)
_lock = Lock()
#: Seconds between two additions.
FLUSH_S: Final = 0.05
_counts: Final[dict[tuple[Counter | Gauge, Labels], float]] = {}
#: The sum of what was observed, and how often it fell into each bucket.
_observed: Final[dict[tuple[Histogram, Labels], tuple[list[float], list[int]]]] = {}


def count(metric: Counter | Gauge, labels: Labels = (), amount: float = 1) -> None:
    """Add to a counter or gauge."""
    key = metric, labels
    with _lock:
        _counts[key] = _counts.get(key, 0) + amount


def observe(metric: Histogram, labels: Labels, value: float) -> None:
    """Add a value to a histogram."""
    bounds: list[float] = metric._upper_bounds  # noqa: SLF001  # prometheus_client adds one value at a time only
    with _lock:
        if (found := _observed.get((metric, labels))) is None:
            found = _observed[metric, labels] = [0.0], [0] * len(bounds)
        total, buckets = found
        total[0] += value
        buckets[bisect_left(bounds, value)] += 1


def flush() -> None:
    """Add what was counted to the metrics."""
    with _lock:
        counts, observed = _counts.copy(), _observed.copy()
        _counts.clear()
        _observed.clear()
    for (metric, labels), amount in counts.items():
        (metric.labels(*labels) if labels else metric).inc(amount)
    for (histogram, labels), ((total,), buckets) in observed.items():
        child = histogram.labels(*labels)
        child._sum.inc(total)  # noqa: SLF001  # as above
        for value, times in zip(child._buckets, buckets, strict=True):  # noqa: SLF001
            if times:
                value.inc(times)


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

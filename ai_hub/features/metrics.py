"""Prometheus metrics of a follower: what it did, and how old the data is that it put online."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from ai_hub.features.materialize import Pass

_RESULTS = ("full", "followed", "idle", "failed")
_LABELS = ("tenant", "feature_view")


class Metrics(Collector):
    """Counts passes and rows; computes ages when asked, so they grow while nothing arrives."""

    def __init__(self, forget_after: timedelta) -> None:
        """Start with nothing known; an asset without a reading for `forget_after` no longer counts."""
        self.registry = CollectorRegistry()
        self._forget_after = forget_after
        self._lock = threading.Lock()
        #: newest reading behind the online row, by tenant, view and asset
        self._readings: dict[tuple[str, str], dict[str, datetime]] = {}
        # plain numbers: Feast makes prometheus_client's counters those of all processes on the machine
        self._rows: Counter[str] = Counter()
        self._passes: Counter[str] = Counter()
        self.registry.register(self)

    def note(self, done: Pass) -> None:
        """Take in a pass."""
        result = "full" if done.refreshes is None else "followed" if done.refreshes else "idle"
        with self._lock:
            self._passes[result] += 1
            self._rows.update(done.rows)
            for each in done.behind:
                readings = self._readings.setdefault((each.tenant, each.view), {})
                # Redis keeps the newer row, so do we
                readings[each.asset] = max(each.reading, readings.get(each.asset, each.reading))

    def note_failure(self) -> None:
        """Count a pass that failed."""
        with self._lock:
            self._passes["failed"] += 1

    def collect(self) -> Iterable[Metric]:
        """Counts so far, and ages as of now."""
        now = datetime.now(UTC)
        rows = CounterMetricFamily(
            "ai_hub_materialized_rows", "Rows written to Redis", labels=["feature_view"]
        )
        passes = CounterMetricFamily(
            "ai_hub_materialize_passes", "Passes by what came of them", labels=["result"]
        )
        newest = GaugeMetricFamily(
            "ai_hub_feature_freshness_seconds", "Age of the newest reading behind the view", labels=_LABELS
        )
        slowest = GaugeMetricFamily(
            "ai_hub_feature_slowest_seconds",
            "Age of the newest reading of the asset that lags most",
            labels=_LABELS,
        )
        with self._lock:
            for result in _RESULTS:
                passes.add_metric([result], self._passes[result])
            for view, count in self._rows.items():
                rows.add_metric([view], count)
            for labels, readings in list(self._readings.items()):
                kept = {asset: at for asset, at in readings.items() if now - at <= self._forget_after}
                self._readings[labels] = kept
                if kept:
                    newest.add_metric(labels, (now - max(kept.values())).total_seconds())
                    slowest.add_metric(labels, (now - min(kept.values())).total_seconds())
        yield from (rows, passes, newest, slowest)


@contextmanager
def served(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Serve the metrics over HTTP, in a thread; yields the port (of a free one where `port` is 0)."""
    server, thread = start_http_server(port, host, metrics.registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

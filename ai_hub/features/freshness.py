"""Freshness: the age of the newest reading behind what is online, not of the job that put it there."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ai_hub.db.connection import connect
from ai_hub.errors import NotFoundError
from ai_hub.features.newest import followed_views, is_pushed
from feast_plugins.postgres.session import TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from feast import FeatureStore, FeatureView
    from prometheus_client.core import Metric
    from psycopg import Connection

    from ai_hub.features.materialize import Pass


_ASSETS = """
SELECT tenant_id, asset_id FROM asset_spans
WHERE tenant_id = %(tenant)s OR %(tenant)s::text IS NULL ORDER BY tenant_id, asset_id
"""
#: Assets asked of Redis at once.
_BATCH = 1000
_BEHIND = """
SELECT tenant_id, asset_id, newest_reading
FROM feature_freshness(%s::text[], %s::text[], %s::timestamptz[]) WHERE newest_reading IS NOT NULL
"""


@dataclass(frozen=True)
class Behind:
    """Newest reading that a row of one asset used."""

    tenant: str
    view: str
    asset: str
    reading: datetime


@dataclass(frozen=True)
class ViewFreshness:
    """Freshness of one feature view of one tenant, as it is online."""

    tenant: str
    feature_view: str
    #: assets with a row in Redis, of those that ever had a reading
    online: int
    assets: int
    #: newest reading behind any row; None: no row is online
    newest_reading: datetime | None
    slowest_asset: str | None
    slowest_reading: datetime | None

    def age(self, now: datetime) -> timedelta | None:
        """Age of the newest reading."""
        return now - self.newest_reading if self.newest_reading else None

    def slowest_age(self, now: datetime) -> timedelta | None:
        """Age of the newest reading of the asset that lags most."""
        return now - self.slowest_reading if self.slowest_reading else None


def readings_behind(connection: Connection[Any], view: FeatureView, rows: pa.Table) -> list[Behind]:
    """Newest reading behind each of `rows`, which have keys and the view's event time."""
    source = view.batch_source
    assert source is not None  # noqa: S101  # views without one are not followed
    tenants, assets, times = (
        rows[name].to_pylist() for name in ("tenant_id", "asset_id", source.timestamp_field)
    )
    if is_pushed(view):
        found = list(zip(tenants, assets, times, strict=True))
    else:
        found = connection.execute(_BEHIND, [tenants, assets, times]).fetchall() if tenants else []
    return [Behind(tenant, view.name, asset, reading) for tenant, asset, reading in found]


def freshness(store: FeatureStore, tenant: str | None = None) -> list[ViewFreshness]:
    """Freshness of every feature view, tenant by tenant, read from Redis through Feast.

    Raises:
        NotFoundError: the tenant has no readings.
    """
    views = followed_views(store)
    with connect(application_name="ai-hub freshness") as connection:
        known: dict[str, list[str]] = defaultdict(list)
        for owner, asset in connection.execute(_ASSETS, {"tenant": tenant}).fetchall():
            known[owner].append(asset)
        if tenant is not None and not known:
            raise NotFoundError(
                f"Tenant {tenant} has no readings.",
                hint=f"Bring some in with `ai-hub ingest readings FILE --tenant {tenant}`.",
            )
        return [
            summarize(
                owner,
                view.name,
                readings_behind(connection, view, _online_rows(store, view, owner, assets)),
                len(assets),
            )
            for owner, assets in known.items()
            for view in views
        ]


def summarize(tenant: str, view: str, behind: Sequence[Behind], assets: int) -> ViewFreshness:
    """Newest and slowest of the rows of one view of one tenant."""
    newest = max(behind, key=lambda each: each.reading, default=None)
    slowest = min(behind, key=lambda each: each.reading, default=None)
    return ViewFreshness(
        tenant=tenant,
        feature_view=view,
        online=len(behind),
        assets=assets,
        newest_reading=newest.reading if newest else None,
        slowest_asset=slowest.asset if slowest else None,
        slowest_reading=slowest.reading if slowest else None,
    )


def _online_rows(store: FeatureStore, view: FeatureView, tenant: str, assets: Sequence[str]) -> pa.Table:
    """Keys and event time of each asset's row in Redis."""
    found: list[tuple[str, datetime]] = []
    for start in range(0, len(assets), _BATCH):
        part = assets[start : start + _BATCH]
        response = store.get_online_features(
            features=[f"{view.name}:{view.features[0].name}"],
            entity_rows=[{"tenant_id": tenant, "asset_id": asset} for asset in part],
        )
        stamps = response.proto.results[-1].event_timestamps
        found += [
            (asset, stamp.ToDatetime(UTC)) for asset, stamp in zip(part, stamps, strict=True) if stamp.seconds
        ]
    source = view.batch_source
    assert source is not None  # noqa: S101  # views without one are not followed
    return pa.table(
        {
            "tenant_id": [tenant] * len(found),
            "asset_id": [asset for asset, _ in found],
            source.timestamp_field: pa.array([time for _, time in found], TIME),
        }
    )


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
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve the metrics over HTTP, in a thread; yields the port (of a free one where `port` is 0)."""
    server, thread = start_http_server(port, host, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

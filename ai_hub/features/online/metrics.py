"""Prometheus metrics of reads. No label names a tenant or an asset."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_AGES_S: Final = (600, 1800, 3600, 5400, 7200, 10_800, 14_400, 21_600, 43_200, 86_400, 172_800)
STATES: Final = {"closed": 0, "half-opened": 1, "opened": 2}

_READS = Counter(
    "ai_hub_feature_reads",
    "Assets answered, by feature set and where their features came from",
    ["feature_set", "source"],
)
_DEGRADED = Counter(
    "ai_hub_feature_degraded",
    "Assets answered with less than usual, by feature set and the reason",
    ["feature_set", "reason"],
)
_AGE = Histogram(
    "ai_hub_feature_age_seconds",
    "Time since the start of the hour that present features describe: the oldest of each request",
    ["feature_set"],
    buckets=_AGES_S,
)
_WRITE_BACKS = Counter("ai_hub_feature_write_backs", "Rows written back to Redis, by result", ["result"])
_QUERIES = Histogram(
    "ai_hub_feature_query_seconds",
    "Seconds of a computation in TimescaleDB, its wait for a connection not counted",
    ["result"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
_BREAKER = Gauge(
    "ai_hub_breaker_state",
    "State of a server's circuit breaker: 0 closed, 1 half open (one request tries), 2 open (not asked)",
    ["server"],
    multiprocess_mode="livemax",
)


@lru_cache(maxsize=1024)
def reads(feature_set: str, source: str) -> Counter:
    """Assets answered from `source`."""
    return _READS.labels(feature_set, source)


@lru_cache(maxsize=1024)
def degraded(feature_set: str, reason: str) -> Counter:
    """Assets whose answer is degraded because of `reason`."""
    return _DEGRADED.labels(feature_set, reason)


@lru_cache(maxsize=1024)
def age(feature_set: str) -> Histogram:
    """Ages of present features."""
    return _AGE.labels(feature_set)


@lru_cache(maxsize=8)
def write_backs(result: str) -> Counter:
    """Write-backs: written, refused (somebody wrote first), failed, or dropped (too many pending)."""
    return _WRITE_BACKS.labels(result)


@lru_cache(maxsize=8)
def queries(result: str) -> Histogram:
    """Computations with `result`: done or failed."""
    return _QUERIES.labels(result)


def set_breaker(server: str, state: str) -> None:
    """Set the state of a server's breaker."""
    _BREAKER.labels(server).set(STATES[state])

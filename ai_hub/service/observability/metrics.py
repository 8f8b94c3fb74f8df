"""Prometheus metrics of requests. No label names a tenant: `/metrics` is open to whoever reaches the port."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

_BUCKETS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
#: Files of gauges that hold for as long as their process lives.
_LIVE: Final = re.compile(r"gauge_live[a-z]*_(\d+)\.db")

REQUESTS: Final = Counter(
    "ai_hub_http_requests", "Requests answered, by endpoint and status", ["method", "route", "status"]
)
LATENCY: Final = Histogram(
    "ai_hub_http_request_seconds",
    "Seconds from the first byte of a request's head to its answer, by endpoint and feature set",
    ["route", "feature_set"],
    buckets=_BUCKETS,
)
IN_FLIGHT: Final = Gauge("ai_hub_http_requests_in_flight", "Requests under way", multiprocess_mode="livesum")
REFUSED: Final = Counter(
    "ai_hub_http_refused", "Requests refused because too many were under way", ["route_group"]
)


@lru_cache(maxsize=4096)
def count(method: str, route: str, status: int) -> Counter:
    """The counter of one kind of answer."""
    return REQUESTS.labels(method, route, str(status))


@lru_cache(maxsize=1024)
def latency(route: str, feature_set: str) -> Histogram:
    """The histogram of one endpoint and feature set."""
    return LATENCY.labels(route, feature_set)


def forget_the_dead() -> None:
    """Take back what processes that are gone said of their present: a worker that was killed could not."""
    folder = os.environ.get(_DIRECTORY)
    if not folder:
        return
    found = {int(match[1]) for each in Path(folder).iterdir() if (match := _LIVE.fullmatch(each.name))}
    for process in found:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another worker that starts does the same
                mark_process_dead(process)  # type: ignore[no-untyped-call]
        except PermissionError:
            pass  # it lives, as somebody else


def exposition(*collectors: Collector) -> bytes:
    """Every metric of every process of this service, and of `collectors`, as text."""
    if os.environ.get(_DIRECTORY):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry = REGISTRY
    text = generate_latest(registry)
    if collectors:
        more = CollectorRegistry()
        for each in collectors:
            more.register(each)
        text += generate_latest(more)
    return text

"""Counts that are added together, beside the same counts one by one."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ai_hub import metrics

if TYPE_CHECKING:
    import pytest

BUCKETS = (0.125, 0.5, 1, 2.5)


def made(name: str) -> tuple[CollectorRegistry, Counter, Gauge, Histogram]:
    """Metrics of their own; those of one name would share their values where several processes count."""
    registry = CollectorRegistry()
    return (
        registry,
        Counter(f"{name}_asked", "", ["route", "status"], registry=registry),
        Gauge(f"{name}_under_way", "", registry=registry),
        Histogram(f"{name}_seconds", "", ["route"], buckets=BUCKETS, registry=registry),
    )


def exposition(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_flush__adds_what_prometheus_would_have_counted_one_by_one() -> None:
    ours, asked, under_way, seconds = made("ours")
    expected, asked_once, under_way_once, seconds_once = made("expected")
    rng = random.Random(5)  # noqa: S311  # no secret
    for turn in range(4):
        for _ in range(turn * 50):
            route, status = rng.choice("ab"), rng.choice((200, 404))
            change, value = rng.choice((1, -1)), rng.choice((0, 0.25, 3.5, *BUCKETS))
            metrics.count(asked, (route, status))
            asked_once.labels(route, status).inc()
            metrics.count(under_way, amount=change)
            under_way_once.inc(change)
            metrics.observe(seconds, (route,), value)
            seconds_once.labels(route).observe(value)
        metrics.flush()
        assert exposition(ours) == [line.replace("expected", "ours") for line in exposition(expected)]


def test_flush__while_others_count_and_flush__adds_everything_once() -> None:
    """As several services of one process do."""
    registry, asked, under_way, seconds = made("shared")

    def work() -> None:
        for _ in range(300):
            metrics.count(asked, ("a", 200))
            metrics.count(under_way)
            metrics.observe(seconds, ("a",), 1)
            metrics.flush()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    metrics.flush()
    assert [
        registry.get_sample_value("shared_asked_total", {"route": "a", "status": "200"}),
        registry.get_sample_value("shared_under_way"),
        registry.get_sample_value("shared_seconds_count", {"route": "a"}),
    ] == [1200, 1200, 1200]


def test_flush__that_fails__is_followed_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one on a full disk."""
    _, asked, under_way, _ = made("disk")

    async def main() -> None:
        failed, added = asyncio.Event(), asyncio.Event()

        def fail(*_: object) -> None:
            failed.set()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(asked, "labels", fail)
        monkeypatch.setattr(under_way, "inc", lambda _: added.set())
        async with metrics.flushed():
            metrics.count(asked, ("a", 200))
            await asyncio.wait_for(failed.wait(), 20)
            metrics.count(under_way)
            await asyncio.wait_for(added.wait(), 20)

    asyncio.run(main())

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime, timedelta

import pytest

from ai_hub.features.freshness import Behind, Metrics, served, summarize
from ai_hub.features.materialize import Pass

LABELS = {"tenant": "t", "feature_view": "v"}


def behind(asset: str, hours: float) -> Behind:
    return Behind("t", "v", asset, datetime.now(UTC) - timedelta(hours=hours))


def age(metrics: Metrics, which: str) -> float | None:
    return metrics.registry.get_sample_value(f"ai_hub_feature_{which}_seconds", LABELS)


def test_ages__are_those_of_readings_and_grow_by_themselves() -> None:
    metrics = Metrics(timedelta(days=2))
    assert age(metrics, "freshness") is None
    metrics.note(Pass(None, {"v": 3}, [behind("a", 1), behind("b", 5), behind("gone", 49)]))
    first = age(metrics, "freshness")
    assert first == pytest.approx(3600, abs=60)
    assert age(metrics, "slowest") == pytest.approx(5 * 3600, abs=60)
    later = age(metrics, "freshness")
    assert later is not None
    assert later > first
    # an older row does not replace the newer one in Redis
    metrics.note(Pass(1, {"v": 1}, [behind("a", 7), behind("b", 2)]))
    assert age(metrics, "freshness") == pytest.approx(3600, abs=60)
    assert age(metrics, "slowest") == pytest.approx(2 * 3600, abs=60)


def test_counters__by_view_and_by_result() -> None:
    metrics = Metrics(timedelta(days=2))
    for done in (Pass(None, {"v": 3}), Pass(2, {"v": 1}), Pass(0)):
        metrics.note(done)
    metrics.note_failure()
    value = metrics.registry.get_sample_value
    assert value("ai_hub_materialized_rows_total", {"feature_view": "v"}) == 4
    assert {
        result: value("ai_hub_materialize_passes_total", {"result": result})
        for result in ("full", "followed", "idle", "failed")
    } == dict.fromkeys(("full", "followed", "idle", "failed"), 1)


def test_served__answers_until_it_is_left() -> None:
    with served(Metrics(timedelta(days=2)), "127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:  # our own
            assert b"ai_hub_materialize_passes_total" in answer.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)


def test_summarize__newest_slowest_and_none() -> None:
    slow, fast = behind("a", 3), behind("b", 1)
    found = summarize("t", "v", [slow, fast], 5)
    assert (found.online, found.assets, found.slowest_asset) == (2, 5, "a")
    later = fast.reading + timedelta(hours=1)
    assert found.age(later) == timedelta(hours=1)
    assert found.slowest_age(later) == later - slow.reading
    nothing = summarize("t", "v", [], 5)
    assert (nothing.online, nothing.age(later), nothing.slowest_age(later)) == (0, None, None)

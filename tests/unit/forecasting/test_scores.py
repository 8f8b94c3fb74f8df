from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.forecasting.scores import Scores, score

LEVELS = (0.1, 0.5, 0.9)
VALUE = st.floats(-1e6, 1e6) | st.integers(-2, 2).map(float)
MAYBE = VALUE | st.just(math.nan)


@st.composite
def targets(draw: st.DrawFn) -> tuple[float, float, list[float], float, float, float]:
    """Actual value, forecast, quantiles, scale, capacity and peak of a target."""
    quantiles = sorted(draw(VALUE) for _ in LEVELS)
    if draw(st.booleans()):
        quantiles = [quantiles[0]] * len(LEVELS)
    positive = st.floats(1e-3, 1e6)
    return (
        draw(MAYBE),
        draw(MAYBE),
        quantiles,
        draw(positive),
        draw(positive | st.just(math.nan)),
        draw(VALUE),
    )


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def slow(rows: list[tuple[float, float, list[float], float, float, float]]) -> dict[str, float]:
    kept = [row for row in rows if not math.isnan(row[0]) and not math.isnan(row[1])]
    errors = [abs(f - a) for a, f, *_ in kept]
    pinball = [
        each * (a - q) if a >= q else (1 - each) * (q - a)
        for a, _, quantiles, *_ in kept
        for each, q in zip(LEVELS, quantiles, strict=True)
    ]
    covered = [float(q[0] <= a <= q[-1]) for a, _, q, *_ in kept if q[0] < q[-1] or not q[0] <= a <= q[-1]]
    peaks = [(a > peak, f > peak) for a, f, _, _, _, peak in kept]
    hits = sum(was and said for was, said in peaks)
    said, were = sum(said for _, said in peaks), sum(was for was, _ in peaks)
    size = mean([abs(a) for a, *_ in kept])
    return {
        "n": len(kept),
        "mae": mean(errors),
        "rmse": math.sqrt(mean([e * e for e in errors])),
        "bias": mean([f - a for a, f, *_ in kept]),
        "mae_over_mean": mean(errors) / size if size else math.nan,
        "mae_over_capacity": mean(
            [e / row[4] for e, row in zip(errors, kept, strict=True) if not math.isnan(row[4])]
        ),
        "mase": mean([e / row[3] for e, row in zip(errors, kept, strict=True)]),
        "pinball": mean(pinball),
        "coverage": mean(covered),
        "width": mean([q[-1] - q[0] for _, _, q, *_ in kept]),
        "peak_precision": hits / said if said else math.nan,
        "peak_recall": hits / were if were else math.nan,
    }


def fast(rows: list[tuple[float, float, list[float], float, float, float]]) -> Scores:
    actual, value, quantiles, scale, capacity, peak = (
        np.array(each, float) for each in zip(*rows, strict=True)
    )
    return score(actual, value, quantiles=quantiles, levels=LEVELS, scale=scale, capacity=capacity, peak=peak)


@given(st.lists(targets(), min_size=1, max_size=30))
def test_score__equals_the_textbook_sums(
    rows: list[tuple[float, float, list[float], float, float, float]],
) -> None:
    expected, found = slow(rows), fast(rows)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9, abs=1e-6, nan_ok=True), name


def test_score__percentages_of_zero__are_undefined_and_never_logged() -> None:
    zero = np.zeros(3)
    found = score(zero, zero + 1, scale=zero, capacity=zero + np.nan, peak=zero + 5)
    assert found.as_metrics() == {"n": 3, "mae": 1.0, "rmse": 1.0, "bias": 1.0}


def test_score__nothing_to_compare__says_so() -> None:
    missing = np.array([math.nan])
    one = np.ones(1)
    assert score(missing, one, scale=one, capacity=one, peak=one).as_metrics() == {"n": 0}

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.forecasting.evaluation import errors

VALUE = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=50), st.floats(1e-3, 1e6))
def test_errors__equal_the_textbook_sums(pairs: list[tuple[float, float]], scale: float) -> None:
    actual, forecast = [a for a, _ in pairs], [f for _, f in pairs]
    found = errors(actual, forecast, scale=scale)
    absolute = [abs(a - f) for a, f in pairs]
    mae = math.fsum(absolute) / len(pairs)
    assert found.hours == len(pairs)
    assert found.mae == pytest.approx(mae)
    assert found.rmse == pytest.approx(math.sqrt(math.fsum(d * d for d in absolute) / len(pairs)))
    assert found.mase == pytest.approx(mae / scale)
    assert found.bias == pytest.approx(math.fsum(f - a for a, f in pairs) / len(pairs), abs=1e-6)
    total = math.fsum(map(abs, actual))
    if total > 0:
        assert found.wape == pytest.approx(math.fsum(absolute) / total)


def test_errors__undefined_ones_are_nan_and_never_logged() -> None:
    found = errors([0.0, 0.0], [1.0, 3.0], scale=0.0)
    assert math.isnan(found.wape)
    assert math.isnan(found.mase)
    expected = {"hours": 2, "mae": 2.0, "rmse": pytest.approx(math.sqrt(5)), "bias": 2.0}
    assert found.as_metrics() == expected
    assert errors([], [], scale=1.0).as_metrics() == {"hours": 0}


def test_errors__different_lengths__are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        errors([1.0], [1.0, 2.0], scale=1.0)

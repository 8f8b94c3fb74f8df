from __future__ import annotations

import math

import pandas as pd
import pytest
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, _validate_metric_name

from ai_hub.forecasting import NAIVE_HOURS, TARGET
from ai_hub.forecasting.evaluation import FORECAST, Comparison, Evaluation, errors
from ai_hub.forecasting.tracking import _metrics, forecast_plot

HOURS = pd.date_range("2026-03-01", periods=3, freq="h", tz="UTC")


def comparison(model: float) -> Comparison:
    naive = {name: errors([1.0, 2.0], [2.0, 2.0], scale=0.0) for name in NAIVE_HOURS}
    return Comparison(errors([1.0, 2.0], [1.0 + model, 2.0], scale=0.0), naive)


@pytest.fixture(scope="module")
def many() -> Evaluation:
    assets = [f"meter:{number}/ü" for number in range(1000)]
    rows = pd.DataFrame({"asset_id": assets}).merge(pd.DataFrame({"event_timestamp": HOURS}), how="cross")
    hours = rows.assign(**dict.fromkeys((TARGET, FORECAST, *NAIVE_HOURS), 1.0))
    return Evaluation(hours, comparison(0.5), {asset: comparison(0.25) for asset in assets}, 0)


def test_metrics__a_thousand_assets__are_names_and_numbers_that_mlflow_takes(many: Evaluation) -> None:
    found = _metrics(many)
    assert len(found) <= MAX_METRICS_PER_BATCH
    for name, value in found.items():
        _validate_metric_name(name)
        assert math.isfinite(value)
    assert found["mae"] == 0.25
    assert found["baseline_mae"] == 0.5
    assert found["improvement"] == 0.5
    assert "mase" not in found
    assert found["asset.meter_0/_.mae"] == 0.125


def test_plot__a_thousand_assets__stays_a_picture(many: Evaluation) -> None:
    figure = forecast_plot(many, title="many")
    assert len(figure.axes) == 12
    assert figure.axes[0].get_title() == "meter:0/ü: MAE 0.125, last hour 0.5"

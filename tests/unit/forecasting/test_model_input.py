from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ai_hub.forecasting.fitting import model_input

FEATURES = ["lag_1h", "hour_of_day", "is_weekend"]
ROWS = [
    {"hour_of_day": 7, "is_weekend": 0, "lag_1h": 1.5, "asset_id": "a"},
    {"hour_of_day": 8, "is_weekend": None, "lag_1h": None, "asset_id": "b"},
]


def test_model_input__training_frame_and_online_rows__give_the_same_matrix() -> None:
    offline = pd.DataFrame(ROWS, index=[7, 3])[["asset_id", "is_weekend", "hour_of_day", "lag_1h"]]
    expected = pd.DataFrame(
        {"lag_1h": [1.5, np.nan], "hour_of_day": [7.0, 8.0], "is_weekend": [0.0, np.nan]}, dtype="float64"
    )
    pd.testing.assert_frame_equal(model_input(offline, FEATURES), expected)
    pd.testing.assert_frame_equal(model_input(ROWS, FEATURES), expected)


def test_model_input__absent_feature__is_named() -> None:
    with pytest.raises(KeyError, match="lag_24h"):
        model_input(ROWS, [*FEATURES, "lag_24h"])

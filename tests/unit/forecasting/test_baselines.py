from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.forecasting import NAIVE_HOURS, TARGET
from ai_hub.forecasting.evaluation import daily_change, naive_forecasts

START = datetime(2026, 1, 1, tzinfo=UTC)
# few assets and hours around the three distances, so that hits, gaps and misses all happen
KEYS = st.tuples(
    st.sampled_from(["1", "11", "a"]), st.sampled_from([0, 1, 2, 24, 25, 26, 48, 168, 169, 170, 192, 193])
)
READINGS = st.dictionaries(KEYS, st.floats(-1e6, 1e6), min_size=1)


def table(readings: dict[tuple[str, int], float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "asset_id": [asset for asset, _ in readings],
            "event_timestamp": pd.to_datetime([START + timedelta(hours=h) for _, h in readings], utc=True),
            TARGET: list(readings.values()),
        },
        index=pd.RangeIndex(100, 100 + len(readings)),
    )


@given(READINGS)
def test_naive_forecasts__gaps_and_several_assets__equal_a_lookup_by_time(
    readings: dict[tuple[str, int], float],
) -> None:
    rows = table(readings)
    found = naive_forecasts(rows, rows)
    assert found.index.equals(rows.index)
    for name, back in NAIVE_HOURS.items():
        expected = [readings.get((asset, hour - back), np.nan) for asset, hour in readings]
        np.testing.assert_array_equal(found[name].to_numpy(float), np.array(expected, float))


@given(READINGS)
def test_daily_change__is_the_mean_over_pairs_a_day_apart(readings: dict[tuple[str, int], float]) -> None:
    pairs = [
        abs(value - readings[asset, hour - 24])
        for (asset, hour), value in readings.items()
        if (asset, hour - 24) in readings
    ]
    found = daily_change(table(readings))
    if pairs:
        np.testing.assert_allclose(found, sum(pairs) / len(pairs))
    else:
        assert np.isnan(found)

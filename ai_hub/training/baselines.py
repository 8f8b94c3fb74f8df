"""Naive forecasts: the value some hours before."""

from __future__ import annotations

import pandas as pd

from ai_hub.training.terms import NAIVE_HOURS, TARGET


def naive_forecasts(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Naive forecasts of `rows`, one column each, NaN where the earlier hour has no reading.

    Both frames have `asset_id`, `event_timestamp` and the target; earlier hours are looked up in `history`
    by time, so a gap never shifts them.
    """
    values = history.set_index(["asset_id", "event_timestamp"])[TARGET]
    return pd.DataFrame(
        {
            name: values.reindex(
                pd.MultiIndex.from_arrays(
                    [rows["asset_id"], rows["event_timestamp"] - pd.Timedelta(hours=hours)]
                )
            ).to_numpy()
            for name, hours in NAIVE_HOURS.items()
        },
        index=rows.index,
    )


def daily_change(train: pd.DataFrame) -> float:
    """Mean absolute difference from the same hour yesterday within `train`: what MASE divides by."""
    yesterday = naive_forecasts(train, train)["same hour yesterday"]
    return float((train[TARGET] - yesterday).abs().mean())

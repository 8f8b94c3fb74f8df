from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from ai_hub.forecasting import NAIVE_HOURS, TARGET
from ai_hub.forecasting.dataset import Split, Window, split_by_time
from ai_hub.forecasting.evaluation import FORECAST, evaluate
from ai_hub.forecasting.fitting import fit

END = datetime(2026, 3, 1, tzinfo=UTC)
FEATURES = ["hour_of_day", "lag_1h"]


def meter(asset: str, weeks: int, seed: int, level: float) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    times = pd.date_range(END - timedelta(weeks=weeks), END, freq="h", inclusive="left")
    value = level * (2 + np.sin(times.hour.to_numpy() / 24 * 2 * np.pi)) + random.normal(
        0, level / 4, len(times)
    )
    return pd.DataFrame(
        {
            "asset_id": asset,
            "event_timestamp": times,
            TARGET: value,
            "hour_of_day": times.hour,
            "lag_1h": pd.Series(value).shift(1),
        }
    )


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.concat([meter("a", 4, 1, 1.0), meter("b", 4, 2, 3.0)], ignore_index=True)


@pytest.fixture(scope="module")
def split(rows: pd.DataFrame) -> Split:
    return split_by_time(rows, Window.ending(END, weeks=4, holdout_weeks=1))


def test_fit__twice__gives_the_same_model(split: Split) -> None:
    first, second = fit(split, FEATURES), fit(split, FEATURES)
    assert first.rounds == second.rounds
    assert first.booster.model_to_string() == second.booster.model_to_string()


def test_fit__never_sees_the_held_out_weeks(split: Split) -> None:
    spoiled = Split(split.train, split.validation, split.holdout.assign(**{TARGET: 1e9, "lag_1h": -1e9}))
    assert fit(spoiled, FEATURES).booster.model_to_string() == fit(split, FEATURES).booster.model_to_string()


def test_evaluate__beats_naive_on_a_noisy_cycle_and_compares_the_same_hours(
    rows: pd.DataFrame, split: Split
) -> None:
    booster = fit(split, FEATURES).booster
    # the readings of two hours a week before are missing
    gap = split.holdout.index[[5, 6]]
    times = rows.loc[gap, "event_timestamp"] - pd.Timedelta(weeks=1)
    history = rows[~((rows["asset_id"] == "a") & rows["event_timestamp"].isin(times))]

    found = evaluate(booster, split, FEATURES, history)

    assert found.not_compared == 2
    assert len(found.hours) == 2 * 168
    assert found.overall.model.hours == 2 * 168 - 2
    assert {asset: each.model.hours for asset, each in found.by_asset.items()} == {"a": 166, "b": 168}
    for comparison in (found.overall, *found.by_asset.values()):
        assert {naive.hours for naive in comparison.naive.values()} == {comparison.model.hours}
        assert 0.1 < comparison.improvement < 1
        assert comparison.naive[comparison.best_naive].mae == min(n.mae for n in comparison.naive.values())
    compared = found.hours.dropna(subset=list(NAIVE_HOURS))
    mae = (compared[FORECAST] - compared[TARGET]).abs().mean()
    assert found.overall.model.mae == pytest.approx(mae)
    assert found.overall.improvement == pytest.approx(
        1 - mae / found.overall.naive[found.overall.best_naive].mae
    )

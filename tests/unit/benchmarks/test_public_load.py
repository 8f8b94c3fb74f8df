"""What the benchmark of day-ahead forecasts makes of a file, and how it scores another forecaster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from ai_hub.errors import BadInputError
from ai_hub.forecasting.issues import IssueRule
from benchmarks.public_load import Plan, read_load, score

if TYPE_CHECKING:
    from pathlib import Path

ZONE = "America/New_York"
HOUR = timedelta(hours=1)


def _write(path: Path, header: str, times: pd.DatetimeIndex) -> Path:
    rows = [f"{at:%Y-%m-%d %H:%M},{50},{number}" for number, at in enumerate(times)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_file_of_local_hours_loses_the_one_that_never_was(tmp_path: Path) -> None:
    days = pd.date_range("2007-03-10", periods=48, freq="h")
    load = read_load(_write(tmp_path / "load.csv", "timestamp,temperature,zone-01", days), ZONE, "F")
    assert len(load) == 47
    assert load.index[0] == datetime(2007, 3, 10, 5, tzinfo=UTC)
    # 02:00 on the 11th, row 26, is missing, and nothing is moved
    assert load["zone-01"].tolist() == [*range(26), *range(27, 48)]
    assert load["temperature"].iloc[0] == pytest.approx(10)


def test_a_file_without_temperature_is_refused(tmp_path: Path) -> None:
    days = pd.date_range("2007-03-10", periods=48, freq="h")
    file = _write(tmp_path / "load.csv", "timestamp,zone-01,zone-02", days)
    with pytest.raises(BadInputError, match="has the columns timestamp, zone-01, zone-02"):
        read_load(file, ZONE, "F")


def test_another_forecaster_is_scored_over_the_same_targets_by_lead() -> None:
    # over both changes of the clock, which have days of 23 and 25 hours
    hours = pd.date_range("2007-02-26T05:00Z", "2007-11-12T05:00Z", freq="h", inclusive="left")
    drawn = np.random.default_rng(7)
    load = pd.DataFrame(
        {"temperature": 10.0, "a": drawn.gamma(3, 1, len(hours)), "b": drawn.gamma(5, 4, len(hours))}, hours
    )
    load.loc[hours[5000:5003], "a"] = np.nan
    plan = Plan(IssueRule.parse(f"D-1 10:00 {ZONE}"), 48 * HOUR, 36, 34, 13)
    first = hours[-1].to_pydatetime() + HOUR - timedelta(weeks=34)
    rows, errors = [], {}
    for asset in "ab":
        for at, actual in load[asset].items():
            local = at.tz_convert(ZONE)
            day = local.date() - timedelta(days=1)
            issue = datetime(day.year, day.month, day.day, 10, tzinfo=ZoneInfo(ZONE)).astimezone(UTC)
            if issue < first:
                continue
            error = float(drawn.normal())
            median = actual + error if actual == actual else 1.0  # noqa: PLR0124  # NaN
            rows.append((at, asset, median - 1, median, median + 1))
            if np.isfinite(actual):
                lead = (at - issue) // HOUR
                name = "12-24 h" if lead < 24 else "24-36 h" if lead < 36 else "36-48 h"
                for each in (name, "all"):
                    errors.setdefault(each, []).append((abs(error), actual))
    forecasts = pd.DataFrame(rows, columns=["timestamp", "asset", "q10", "q50", "q90"])
    expected: dict[str, Any] = {name: {"model": {"n": len(each)}} for name, each in errors.items()}
    found = score(forecasts, load, plan, expected)
    assert set(found) == set(errors)
    for name, pairs in errors.items():
        mae, mean = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
        assert found[name]["mae_over_mean"] == pytest.approx(mae / mean)
        assert found[name]["coverage"] == pytest.approx(sum(error <= 1 for error, _ in pairs) / len(pairs))
    with pytest.raises(RuntimeError, match="forecasts of other targets"):
        score(forecasts.iloc[1000:], load, plan, expected)

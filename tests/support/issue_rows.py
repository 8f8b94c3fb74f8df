"""Issues of meters whose values are known, with features as the service `day_ahead` has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from ai_hub.forecasting.day_ahead import Recipe
from ai_hub.forecasting.issues import (
    DAY,
    HOUR,
    WEEK,
    Floats,
    Inputs,
    IssueRows,
    StepValues,
    instant,
    issue_times,
    naive,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

START = datetime(2025, 1, 6, tzinfo=UTC)
IN_UNIT: Final = ("mean_7d", "same_hour_1d", "same_hour_7d")
RECIPE: Final = Recipe(
    Inputs(
        ("mean_7d",),
        ("same_hour_1d", "same_hour_7d", "hour_of_day", "day_of_week"),
        frozenset(IN_UNIT),
        frozenset(IN_UNIT),
    )
)


def step_values(values: Mapping[str, Floats], start: datetime = START) -> StepValues:
    """Hourly values by asset, from `start` on."""
    names = sorted(values)
    return StepValues(np.array(names), instant(start), HOUR, np.stack([values[name] for name in names]))


def make_rows(
    values: StepValues,
    *,
    leads: int = 48,
    delay: timedelta = timedelta(0),
    first: timedelta = WEEK,
    arrays: Mapping[str, StepValues] | None = None,
) -> IssueRows:
    """Daily issues of all assets from `first` after the first value to the last, at hours that change.

    `arrays` are further features of the targets, which are known at issue.
    """
    start = values.start.astype(datetime).replace(tzinfo=UTC)
    end = start + values.values.shape[1] * values.step
    issues = [instant(at) for at in issue_times(start + first, end, values.step)]
    assets = np.repeat(values.assets, len(issues))
    issued_at = np.tile(np.array(issues), len(values.assets))
    empty = {"": np.zeros((len(assets), leads))}
    rows = IssueRows("tenant", assets, issued_at, values.step, {}, empty)
    delays = np.full(len(assets), np.timedelta64(delay))
    # the last week that is known at issue
    count = WEEK // values.step
    past = values.at(
        assets,
        (issued_at - np.timedelta64(delay))[:, None] - np.arange(1, count + 1) * np.timedelta64(values.step),
    )
    known = ~np.isnan(past)
    mean = np.where(known.any(axis=1), np.nansum(past, axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)
    hours = rows.starts.astype("datetime64[h]").astype(np.int64)
    features = {
        "same_hour_1d": naive(values, rows, DAY, delays),
        "same_hour_7d": naive(values, rows, WEEK, delays),
        "hour_of_day": (hours % 24).astype(np.float64),
        "day_of_week": ((hours // 24 + 3) % 7).astype(np.float64),
        **{name: each.at(assets, rows.starts) for name, each in (arrays or {}).items()},
    }
    return IssueRows(
        "tenant", assets, issued_at, values.step, {"mean_7d": mean}, features, values.at(assets, rows.starts)
    )


def load(random: np.random.Generator, hours: int, level: float = 1.0, noise: float = 0.1) -> Floats:
    """A meter with a daily and a weekly cycle and normal noise, `noise` levels wide."""
    at = np.arange(hours)
    cycle = 2 + np.sin(at / 24 * 2 * np.pi) - 0.5 * (at // 24 % 7 >= 5)
    return np.asarray(level * (cycle + random.normal(0, noise, hours)), dtype=np.float64)

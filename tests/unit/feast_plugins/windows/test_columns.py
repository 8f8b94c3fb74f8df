"""Columns with issues equal the oracle: each row sees the newest ones that were available at its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.features import HOUR, Asset, Issue

from feast_plugins.windows.columns import IssuedColumn

START = datetime(2026, 10, 1, tzinfo=UTC)
HOURS = 6
#: Of a time in five minutes since the start, and how many of them later it was available.
ISSUES = st.dictionaries(
    st.tuples(st.integers(0, 12 * HOURS - 1), st.integers(-30, 60)),
    st.integers(-9, 9).map(float),
    max_size=25,
)


@pytest.mark.parametrize("per_hour", [4, 2, 1])
@settings(max_examples=60)
@given(issues=ISSUES, hourly=st.booleans(), farthest=st.integers(0, 9))
def test_issued_column__any_issues__equals_the_oracle(
    per_hour: int, issues: dict[tuple[int, int], float], *, hourly: bool, farthest: int
) -> None:
    unit = 12 if hourly else 1  # prices are mostly of whole hours
    step, minutes = HOUR / per_hour, timedelta(minutes=5)
    written = {(at // unit * unit, at // unit * unit + lead): value for (at, lead), value in issues.items()}
    asset = Asset(
        series={
            "price@tenant": [
                Issue(START + at * minutes, START + available * minutes, value)
                for (at, available), value in written.items()
            ]
        }
    )
    times = np.array([at for at, _ in written], np.int64) * 300_000_000
    available = np.array([available for _, available in written], np.int64)
    positions = times // (3_600_000_000 // per_hour)
    size = HOURS * per_hour
    column = IssuedColumn.of_issues(
        np.arange(size),
        size,
        positions=positions,
        times=times,
        since=-(-available * 300 // (3600 // per_hour)) - positions,
        available=available,
        values=np.array(list(written.values()), float),
        per_hour=per_hour,
        reach=(0, farthest),
    )
    agos = range(farthest, -1, -1)
    for ago, known in zip(agos, column.known(agos), strict=True):
        for position, value in enumerate(known):
            begin = START + position * step
            want = asset.issued(begin, begin + step, "price@tenant", begin + ago * step)
            assert value == want if want is not None else np.isnan(value), (position, ago)

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.errors import BadInputError
from ai_hub.forecasting.dataset import Window, split_by_time

if TYPE_CHECKING:
    from random import Random

END = datetime(2026, 3, 1, 7, tzinfo=UTC)


def frame(times: list[datetime]) -> pd.DataFrame:
    return pd.DataFrame({"event_timestamp": pd.to_datetime(times, utc=True), "row": range(len(times))})


@given(
    weeks=st.integers(3, 60),
    holdout=st.integers(1, 8),
    extra=st.lists(st.integers(-40 * 168, 62 * 168).map(lambda h: END - timedelta(hours=h)), max_size=60),
    order=st.randoms(use_true_random=False),
)
def test_split__any_rows__parts_are_disjoint_ordered_and_lose_nothing(
    weeks: int, holdout: int, extra: list[datetime], order: Random
) -> None:
    if weeks <= 2 * holdout:
        with pytest.raises(BadInputError, match="nothing to train on"):
            Window.ending(END, weeks=weeks, holdout_weeks=holdout)
        return
    window = Window.ending(END, weeks=weeks, holdout_weeks=holdout)
    # one row at each edge, so that no part is empty and every bound is tried
    edges = [window.start, window.validation, window.holdout]
    edges += [at - timedelta(hours=1) for at in (window.start, window.validation, window.holdout, window.end)]
    times = [*edges, window.end, *extra]
    order.shuffle(times)
    rows = frame(times)

    split = split_by_time(rows, window)

    parts = (split.train, split.validation, split.holdout)
    for earlier, later in pairwise(parts):
        assert earlier["event_timestamp"].max() < later["event_timestamp"].min()
    inside = {row for row, at in zip(rows["row"], times, strict=True) if window.start <= at < window.end}
    kept = [row for part in parts for row in part["row"]]
    assert len(kept) == len(set(kept))
    assert set(kept) == inside
    assert split.holdout["event_timestamp"].max() - split.holdout["event_timestamp"].min() < timedelta(
        weeks=holdout
    )


@pytest.mark.parametrize(
    ("weeks_before_end", "part"), [([1], "training"), ([5, 1], "validation"), ([5, 3], "held-out")]
)
def test_split__empty_part__says_which_and_what_to_do(weeks_before_end: list[int], part: str) -> None:
    window = Window.ending(END, weeks=6, holdout_weeks=2)
    with pytest.raises(BadInputError, match=f"no {part} rows") as caught:
        split_by_time(frame([END - timedelta(weeks=weeks) for weeks in weeks_before_end]), window)
    assert "--weeks" in (caught.value.hint or "")

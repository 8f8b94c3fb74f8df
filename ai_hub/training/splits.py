"""Splits by time: train, then validation, then held-out weeks; nothing is shuffled."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from ai_hub.errors import BadInputError


@dataclass(frozen=True)
class Window:
    """Times that part the data: [start, validation) trains, then validation, then holdout up to `end`."""

    start: datetime
    validation: datetime
    holdout: datetime
    end: datetime

    @classmethod
    def ending(cls, end: datetime, *, weeks: int, holdout_weeks: int) -> Window:
        """Split of the `weeks` before `end`; validation is as long as the held-out part.

        Raises:
            BadInputError: no week is left to train on.
        """
        if holdout_weeks < 1 or weeks <= 2 * holdout_weeks:
            raise BadInputError(
                f"{weeks} weeks with {holdout_weeks} held out leave nothing to train on.",
                hint="Hold out at least one week, and take more than twice the held-out weeks in all.",
            )
        part = timedelta(weeks=holdout_weeks)
        return cls(end - timedelta(weeks=weeks), end - 2 * part, end - part, end)


@dataclass(frozen=True)
class Split:
    """Rows of the three parts."""

    train: pd.DataFrame
    validation: pd.DataFrame
    holdout: pd.DataFrame


def split_by_time(rows: pd.DataFrame, window: Window) -> Split:
    """Part `rows` by their column `event_timestamp`; rows outside the window are left out.

    Raises:
        BadInputError: a part is empty.
    """
    times = rows["event_timestamp"]
    bounds = (window.start, window.validation, window.holdout, window.end)
    train, validation, holdout = (
        rows[(times >= first) & (times < last)] for first, last in itertools.pairwise(bounds)
    )
    for name, part in (("training", train), ("validation", validation), ("held-out", holdout)):
        if part.empty:
            raise BadInputError(
                f"There are no {name} rows between {window.start:%Y-%m-%d} and {window.end:%Y-%m-%d}.",
                hint="Ingest more history, or choose fewer weeks (--weeks, --holdout-weeks).",
            )
    return Split(train, validation, holdout)

"""Calendar features, computed on demand from the one stored number `local_time`.

The calendar is that of the row the other features came from, offline and online alike: lags of one hour are
never combined with the calendar of another, and callers send nothing but the entity's keys.
"""

import inspect
import warnings

from feast import FeatureView, Field, OnDemandFeatureView
from feast.types import Int64

# `feast apply` says so each time. What does not scale is the pandas mode, which these views do not use.
warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)

#: Tag of a view: features of one name in views with the same value of it are the same feature, and the
#: service answers the name without a feature set.
MEANING_TAG = "meaning"
HOURLY_ROWS = "hourly_rows"

LOCAL_TIME = Field(
    name="local_time",
    dtype=Int64,
    description="Start of the row's hour on the asset's wall clock, in seconds since 1970-01-01 00:00",
)

CALENDAR = ("hour_of_day", "day_of_week", "day_of_month", "month", "is_weekend")


def calendar(inputs: dict[str, list[int | None]]) -> dict[str, list[int | None]]:
    """Calendar of each `local_time`; a missing time gives missing features.

    Feast stores this source text and runs it alone: imports are inside, and types are built-in ones.
    """
    from datetime import datetime, timedelta  # noqa: PLC0415  # see the docstring

    epoch = datetime(1970, 1, 1)  # noqa: DTZ001  # wall clock
    times = [None if t is None else epoch + timedelta(seconds=t) for t in inputs["local_time"]]  # wall clock
    return {
        "hour_of_day": [t and t.hour for t in times],
        "day_of_week": [t and t.weekday() for t in times],
        "day_of_month": [t and t.day for t in times],
        "month": [t and t.month for t in times],
        "is_weekend": [t and int(t.weekday() >= 5) for t in times],  # noqa: PLR2004  # Saturday
    }


def calendar_view(name: str, view: FeatureView) -> OnDemandFeatureView:
    """On-demand view `name` with the calendar of the rows of `view`."""
    return OnDemandFeatureView(
        name=name,
        sources=[view[[LOCAL_TIME.name]]],
        schema=[Field(name=feature, dtype=Int64) for feature in CALENDAR],
        # lists in, lists out: a fifth of the time of the pandas mode online, and the same code offline
        mode="python",
        udf=calendar,
        udf_string=inspect.getsource(calendar),
        # the service may keep what it gives for the same rows
        tags={"deterministic": "true", MEANING_TAG: HOURLY_ROWS},
        description=(
            f"Calendar of the rows of {view.name} in the asset's own time zone: hour_of_day 0 to 23, "
            "day_of_week 0 (Monday) to 6, day_of_month 1 to 31, month 1 to 12, is_weekend 0 or 1"
        ),
    )

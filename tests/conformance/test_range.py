"""History without entity rows: all rows of a range of time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from conformance.compare import assert_same, column
from conformance.history import Request
from conformance.rows import HOUR, MICROSECOND, T0

if TYPE_CHECKING:
    from conformance.stores import Pair

BERLIN = ZoneInfo("Europe/Berlin")
NAIVE = T0.replace(tzinfo=None)
FULL = {"full_feature_names": True}
RANGES: dict[str, dict[str, Any]] = {
    "all": {"start_date": T0 - 40 * HOUR, "end_date": T0 + 9 * HOUR},
    "ends included": {"start_date": T0 - 3 * HOUR, "end_date": T0},
    "just inside": {"start_date": T0 - 3 * HOUR + MICROSECOND, "end_date": T0 - MICROSECOND},
    "naive": {"start_date": NAIVE - 3 * HOUR, "end_date": NAIVE},
    "Berlin": {
        "start_date": (T0 - 3 * HOUR).astimezone(BERLIN),
        "end_date": T0.astimezone(BERLIN),
    },
    "nothing": {"start_date": T0 + 99 * HOUR, "end_date": T0 + 100 * HOUR},
    "turned": {"start_date": T0, "end_date": T0 - HOUR},
    "start left out": {"end_date": T0 + HOUR},
    "ends now": {"start_date": T0 - 3 * HOUR},
}
#: Views of one request have equal keys, as stock needs; no naive column is read with another zone. The rest
#: is among the deliberate differences.
ONE_VIEW = ["one", "reversed", "query", "pushed", "naive times", "no entity", "range of types"]
VIEWS = ["range of views", "range on demand"]


#: Every range for one view and for several, and of the others what matters to them.
CASES = [
    *((features, times) for features in ("one", "range of views") for times in RANGES),
    *((features, times) for features in [*ONE_VIEW[1:], *VIEWS[1:]] for times in ("all", "ends included")),
    ("naive times", "naive"),
    ("naive times", "start left out"),
    ("no entity", "nothing"),
]


@pytest.mark.parametrize(("features", "times"), CASES)
def test_range__same_columns_types_and_rows(pair: Pair, features: str, times: str) -> None:
    request = Request(features, None, RANGES[times])
    assert_same(request.run(pair.ours), request.run(pair.stock))


def test_range__several_views__rows_are_in_the_order_of_their_times(pair: Pair) -> None:
    for store in (pair.ours, pair.stock):
        found = Request("range of views", None, RANGES["all"]).run(store)
        times = column(found, "event_timestamp")
        assert times == sorted(times)
        assert len(times) > 5
    assert timedelta(0) < times[-1] - times[0]


def test_range__metadata(pair: Pair) -> None:
    ours, stock = (
        store.get_historical_features(None, ["load:load"], **RANGES["Berlin"]).metadata
        for store in (pair.ours, pair.stock)
    )
    assert (ours.features, ours.min_event_timestamp, ours.max_event_timestamp) == (
        stock.features,
        stock.min_event_timestamp,
        stock.max_event_timestamp,
    )

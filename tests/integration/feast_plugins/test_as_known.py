"""Reads as known earlier, through Feast on a real server, against a search row by row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from support.properties import examples

from ai_hub.db import connect
from ai_hub.features.store import open_store
from feast_plugins.errors import HistoryNotKnownError

if TYPE_CHECKING:
    from feast import FeatureStore
    from support.energy import Energy

HOUR = timedelta(hours=1)
TTL = timedelta(hours=3)
# the night clocks go back in Berlin, long past the retention of stored rows
START = datetime(2025, 10, 26, 0, tzinfo=UTC)
PROPERTY = settings(
    max_examples=examples(8),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
MINUTES = st.integers(0, 16).map(lambda step: START + timedelta(minutes=30 * step))
HOURS = st.integers(0, 5).map(lambda step: START + step * HOUR)
ASSETS = st.sampled_from(["a", "b"])
#: Of each asset's rows: when it came to be something else, and its value from then on (None: not there).
HISTORIES = st.dictionaries(
    st.tuples(ASSETS, HOURS),
    st.dictionaries(MINUTES, st.none() | st.floats(0, 9), min_size=1, max_size=4),
    min_size=1,
    max_size=8,
)
ENTITIES = st.lists(st.tuples(ASSETS, MINUTES), min_size=1, max_size=15)
FEATURE = "forecast_basic_features:lag_1h"


def write(tenant: str, histories: Any) -> None:
    rows = []
    for (asset, hour), turns in histories.items():
        order = sorted(turns)
        for made, ended in zip(order, [*order[1:], None], strict=True):
            if turns[made] is not None:
                rows.append((asset, hour, made, ended, turns[made]))
    with connect() as connection:
        connection.execute("DELETE FROM ai_features_stored WHERE tenant_id = %s", [tenant])
        connection.execute(
            "INSERT INTO ai_features_stored"
            " (tenant_id, asset_id, hour, created_timestamp, superseded_at, lag_1h) SELECT %s, * FROM"
            " unnest(%s::text[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::float8[])",
            [tenant, *([row[column] for row in rows] for column in range(5))],
        )


def expected(histories: Any, asset: str, at: datetime, known: datetime) -> float | None:
    """What is newest of `asset` at a time, of what was known at another."""
    alive: dict[datetime, float] = {}
    for (of, hour), turns in histories.items():
        turn = max((time for time in turns if time <= known), default=None)
        if of == asset and hour <= at and turn is not None and turns[turn] is not None:
            alive[hour] = turns[turn]
    newest = max(alive, default=None)
    return None if newest is None or at - newest > TTL else alive[newest]


@pytest.fixture
def store(energy: Energy) -> FeatureStore:
    return energy.store


#: A row that went after the time whose knowledge is asked for, and before the time of the entity row.
GONE_LATER = {("a", START + 5 * HOUR): {START: 1.0, START + 5.5 * HOUR: None}}


@PROPERTY
@example(histories=GONE_LATER, asked=[("a", START + 6 * HOUR)], known_at=START + 4 * HOUR)
@given(histories=HISTORIES, asked=ENTITIES, known_at=MINUTES)
def test_history__as_known__equals_a_search_row_by_row(
    store: FeatureStore, tenant: str, histories: Any, asked: Any, known_at: datetime
) -> None:
    write(tenant, histories)
    entities = pd.DataFrame(
        {
            "tenant_id": tenant,
            "asset_id": [asset for asset, _ in asked],
            "event_timestamp": pd.to_datetime([at for _, at in asked], utc=True),
        }
    )

    def read(of: FeatureStore, *, by_row: bool) -> list[float | None]:
        actual = of.get_historical_features(entities, [FEATURE], filter_by_created_timestamp=by_row).to_df()
        return [None if pd.isna(value) else value for value in actual["lag_1h"]]

    then = open_store(known_at=known_at)
    assert read(store, by_row=True) == [expected(histories, asset, at, at) for asset, at in asked]
    assert read(then, by_row=False) == [expected(histories, asset, at, known_at) for asset, at in asked]
    assert read(then, by_row=True) == [
        expected(histories, asset, at, min(at, known_at)) for asset, at in asked
    ]


def test_known_at__without_entity_rows_or_to_serve_from__is_refused(store: FeatureStore) -> None:
    then = open_store(known_at=START)
    span = {"start_date": START, "end_date": START + HOUR}
    with pytest.raises(HistoryNotKnownError, match="with entity rows only"):
        then.get_historical_features(features=[FEATURE], **span)
    with pytest.raises(HistoryNotKnownError, match="with entity rows only"):
        store.get_historical_features(features=[FEATURE], filter_by_created_timestamp=True, **span)
    with pytest.raises(HistoryNotKnownError, match="must not be served"):
        then.materialize(START, START + HOUR, feature_views=["forecast_basic_features"])


def test_known_at__in_feature_store_yaml__may_name_no_zone() -> None:
    known = open_store(known_at=START.replace(tzinfo=None)).config.offline_store.known_at
    assert known == START

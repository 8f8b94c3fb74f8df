"""Pushed readings: online at once, in the table once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
import pytest
from feast.data_source import PushMode
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from ai_hub.db import connect
from ai_hub.errors import BadInputError
from ai_hub.features.push import Reading, push

if TYPE_CHECKING:
    from feast import FeatureStore
    from support.energy import Energy

PUSHED_AT = datetime.now(UTC).replace(microsecond=0)
FEATURES = ["latest_reading:value", "latest_reading:quality"]


@pytest.fixture
def store(energy: Energy) -> FeatureStore:
    return energy.store


def reading(
    tenant: str, value: float, *, at: datetime = PUSHED_AT, made: datetime = PUSHED_AT, asset: str = "m"
) -> pd.DataFrame:
    row = {"tenant_id": tenant, "asset_id": asset, "timestamp": at, "value": value, "quality": "good"}
    return pd.DataFrame([row | {"ingested_at": made}])


def online(store: FeatureStore, tenant: str, asset: str = "m") -> Any:
    answer = store.get_online_features(FEATURES, [{"tenant_id": tenant, "asset_id": asset}])
    names = list(answer.proto.metadata.feature_names.val)
    vector = answer.proto.results[names.index("value")]
    return answer.to_dict()["value"][0], FieldStatus.Name(vector.statuses[0])


def stored(tenant: str) -> list[Any]:
    with connect() as connection:
        return connection.execute(
            'SELECT "timestamp", value, quality, ingested_at FROM timeseries_data'
            ' WHERE tenant_id = %s ORDER BY "timestamp"',
            [tenant],
        ).fetchall()


def test_push__online__is_there_at_once_and_nowhere_else(store: FeatureStore, tenant: str) -> None:
    assert online(store, tenant) == (None, "NOT_FOUND")
    store.push("readings", reading(tenant, 1.5), to=PushMode.ONLINE)
    assert online(store, tenant) == (1.5, "PRESENT")
    assert online(store, f"{tenant}-x") == (None, "NOT_FOUND")
    assert stored(tenant) == []
    # a correction replaces it, an older reading does not
    store.push("readings", reading(tenant, 2.5), to=PushMode.ONLINE)
    store.push("readings", reading(tenant, 3.5, at=PUSHED_AT - timedelta(minutes=1)), to=PushMode.ONLINE)
    assert online(store, tenant) == (2.5, "PRESENT")


def test_push__both__is_stored_once_and_queued_for_the_next_refresh(store: FeatureStore, tenant: str) -> None:
    for _ in range(2):
        store.push("readings", reading(tenant, 1.5), to=PushMode.ONLINE_AND_OFFLINE)
        assert stored(tenant) == [(PUSHED_AT, 1.5, "good", PUSHED_AT)]
    later = PUSHED_AT + timedelta(seconds=9)
    store.push("readings", reading(tenant, 2.5, made=later), to=PushMode.OFFLINE)
    assert stored(tenant) == [(PUSHED_AT, 2.5, "good", later)]
    store.push("readings", reading(tenant, 1.5), to=PushMode.OFFLINE)
    assert stored(tenant) == [(PUSHED_AT, 2.5, "good", later)]
    with connect() as connection:
        row = connection.execute("SELECT count(*) FROM feature_changes WHERE tenant_id = %s", [tenant])
        assert (row.fetchone() or [0])[0] >= 1


def test_push__of_a_correction__is_known_from_now_on(store: FeatureStore, tenant: str) -> None:
    at = PUSHED_AT.replace(minute=0, second=0) - timedelta(hours=5)
    arrived, earlier = at + timedelta(hours=2), at - timedelta(hours=1)
    with connect(autocommit=True) as connection:
        connection.execute("INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, 'm', 'kWh')", [tenant])
        for stamp, known in ((earlier, None), (at, arrived)):
            connection.execute(
                'INSERT INTO timeseries_data (tenant_id, asset_id, "timestamp", value, available_at)'
                " VALUES (%s, 'm', %s, 1, %s)",
                [tenant, stamp, known],
            )
    before = datetime.now(UTC)
    for stamp, value in ((earlier, 2), (at, 2)):
        push(store, Reading(tenant, "m", stamp, value))
    with connect() as connection:
        rows = connection.execute(
            "SELECT available_at FROM timeseries_data WHERE tenant_id = %s ORDER BY 1", [tenant]
        ).fetchall()
    (known,), (by_rule,) = rows
    assert known >= before
    assert by_rule is None


def test_push__offline_with_other_columns__is_refused_by_name(store: FeatureStore, tenant: str) -> None:
    with pytest.raises(ValueError, match=r"missing_expected_columns: \['quality'\]"):
        store.push("readings", reading(tenant, 1.0).drop(columns="quality"), to=PushMode.OFFLINE)


def test_latest_reading__materialized_and_past_its_time(store: FeatureStore, tenant: str) -> None:
    at = PUSHED_AT - timedelta(hours=23)
    store.push("readings", reading(tenant, 1.0, at=at - timedelta(hours=1)), to=PushMode.OFFLINE)
    store.push("readings", reading(tenant, 2.0, at=at), to=PushMode.OFFLINE)
    store.materialize(PUSHED_AT - timedelta(days=1), PUSHED_AT, feature_views=["latest_reading"])
    assert online(store, tenant) == (2.0, "PRESENT")
    old = PUSHED_AT - timedelta(days=1, minutes=1)
    store.push("readings", reading(tenant, 3.0, at=old, asset="old"), to=PushMode.ONLINE)
    assert online(store, tenant, "old") == (None, "OUTSIDE_MAX_AGE")
    entities = pd.DataFrame({"tenant_id": tenant, "asset_id": "m", "event_timestamp": [at, PUSHED_AT]})
    actual = store.get_historical_features(entities, FEATURES).to_df()
    assert actual["value"].to_list() == [2.0, 2.0]


def test_push__of_a_register__is_what_it_counted(store: FeatureStore, tenant: str) -> None:
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, unit, reading) VALUES (%s, 'm', 'kWh', 'register')",
            [tenant],
        )
    at = PUSHED_AT - timedelta(hours=2)
    first = push(store, Reading(tenant, "m", at, 45_000.0))
    assert (first.online_time, online(store, tenant)) == (None, (None, "NOT_FOUND"))
    second = push(store, Reading(tenant, "m", at + timedelta(hours=1), 45_003.0))
    assert second.online_time == at
    assert online(store, tenant) == (3.0, "PRESENT")
    assert [(time, value) for time, value, *_ in stored(tenant)] == [(at, 3.0)]
    with pytest.raises(BadInputError, match="below 0, impossible for a register"):
        push(store, Reading(tenant, "m", PUSHED_AT, -1.0))
    # Feast's own push knows one table; the database refuses what does not belong there
    with pytest.raises(
        psycopg.errors.CheckViolation, match="Write its readings to the table register_readings"
    ):
        store.push("readings", reading(tenant, 45_006.0), to=PushMode.OFFLINE)
    assert [(time, value) for time, value, *_ in stored(tenant)] == [(at, 3.0)]

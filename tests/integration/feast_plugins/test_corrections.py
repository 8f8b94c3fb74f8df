from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ai_hub.db import connect
from ai_hub.db.refresh import refresh

if TYPE_CHECKING:
    from feast import FeatureStore
    from support.energy import Energy

HOUR = timedelta(hours=1)
SERVICE = "anomaly_detection"


@pytest.fixture
def store(energy: Energy) -> FeatureStore:
    return energy.store


def write(database: str, tenant: str, readings: dict[datetime, float]) -> None:
    with connect(database) as connection:
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, 'meter', value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp") DO UPDATE SET value = excluded.value',
            [tenant, list(readings), list(readings.values())],
        )
    refresh(dsn=database)


def online(store: FeatureStore, tenant: str) -> Any:
    answer = store.get_online_features(
        features=store.get_feature_service(SERVICE),
        entity_rows=[{"tenant_id": tenant, "asset_id": "meter"}],
    ).to_dict()
    return answer["lag_1h"][0]


def test_materialize_incremental__late_and_corrected_reading__reaches_redis(
    store: FeatureStore, database: str, tenant: str
) -> None:
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    views = [f"{SERVICE}_features"]
    write(database, tenant, {this_hour - 3 * HOUR: 1.0, this_hour - 2 * HOUR: 2.0})
    store.materialize_incremental(datetime.now(UTC), feature_views=views)
    assert online(store, tenant) is None  # the hour has begun, the reading of the hour before is late

    for value in (3.0, 4.0):  # it comes, and is corrected
        write(database, tenant, {this_hour - HOUR: value})
        store.materialize_incremental(datetime.now(UTC), feature_views=views)
        assert online(store, tenant) == value

    # an older row never replaces a newer one
    store.materialize(this_hour - 4 * HOUR, this_hour - HOUR, feature_views=views)
    assert online(store, tenant) == 4.0

"""Feature values offline and online equal the database's own, tenant by tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from psycopg import sql

from ai_hub.db.connection import connect
from ai_hub.features.store import feature_names, get_service, read_online

if TYPE_CHECKING:
    from support.energy import Energy

SERVICES = ["forecast_basic", "forecast_advanced", "anomaly_detection"]
KEYS = ["tenant_id", "asset_id", "event_timestamp"]


def from_view(service: str, names: list[str], tenant: str) -> pd.DataFrame:
    """The service's database view, whose SQL computes calendar features by itself."""
    query = sql.SQL("SELECT {} FROM {} WHERE tenant_id = %s ORDER BY asset_id, event_timestamp").format(
        sql.SQL(", ").join(map(sql.Identifier, [*KEYS, *names])), sql.Identifier(f"{service}_features")
    )
    with connect() as connection:
        rows = connection.execute(query, [tenant]).fetchall()
    frame = pd.DataFrame(rows, columns=[*KEYS, *names])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True).dt.as_unit("us")
    return frame.astype(dict.fromkeys(names, "float64"))


def history(energy: Energy, service: str, entities: pd.DataFrame | str) -> pd.DataFrame:
    feature_service = get_service(energy.store, service)
    names = feature_names(feature_service)
    actual = energy.store.get_historical_features(entity_df=entities, features=feature_service).to_df()
    return actual[[*KEYS, *names]].astype(dict.fromkeys(names, "float64"))


def names_of(energy: Energy, service: str) -> list[str]:
    return feature_names(get_service(energy.store, service))


@pytest.fixture(scope="module")
def materialized(energy: Energy) -> Energy:
    """Redis filled by the command line."""
    result = energy.run("feast", "materialize-incremental", energy.now.isoformat())
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stderr
    return energy


@pytest.mark.parametrize("service", SERVICES)
def test_offline__every_hour_of_every_tenant__equals_the_view(energy: Energy, service: str) -> None:
    names = names_of(energy, service)
    tenants = [from_view(service, names, tenant) for tenant in (energy.main, energy.near, energy.twin)]
    expected = pd.concat(tenants).sample(frac=1, random_state=7).reset_index(drop=True)
    assert len(expected) > 2000
    pd.testing.assert_frame_equal(history(energy, service, expected[KEYS]), expected, check_exact=True)


def test_offline__query_of_entity_rows__equals_the_frame(energy: Energy) -> None:
    query = (
        "SELECT tenant_id, asset_id, event_timestamp FROM forecast_basic_features "  # noqa: S608  # made here
        f"WHERE tenant_id = '{energy.main}' ORDER BY asset_id, event_timestamp"
    )
    expected = from_view("forecast_basic", names_of(energy, "forecast_basic"), energy.main)
    pd.testing.assert_frame_equal(history(energy, "forecast_basic", query), expected, check_exact=True)


def test_offline__between_hours_after_the_end_and_before_the_start(energy: Energy) -> None:
    view = from_view("forecast_basic", names_of(energy, "forecast_basic"), energy.main)
    last = view[view["asset_id"] == "1"].iloc[-1]
    first = view[view["asset_id"] == "1"].iloc[0]
    ttl = timedelta(hours=3)
    times = [
        last["event_timestamp"] + timedelta(minutes=37),
        last["event_timestamp"] + ttl,
        last["event_timestamp"] + ttl + timedelta(microseconds=1),
        first["event_timestamp"] - timedelta(microseconds=1),
    ]
    entities = pd.DataFrame({"tenant_id": energy.main, "asset_id": "1", "event_timestamp": times})
    actual = history(energy, "forecast_basic", entities)
    features = names_of(energy, "forecast_basic")
    for row in (0, 1):
        pd.testing.assert_series_equal(
            actual.loc[row, features].astype(float), last[features].astype(float), check_names=False
        )
    assert actual.loc[[2, 3], features].isna().all(axis=None)


@pytest.mark.parametrize("service", SERVICES)
def test_online__newest_row_of_each_asset__equals_offline(materialized: Energy, service: str) -> None:
    for tenant in (materialized.main, materialized.near, materialized.twin):
        newest = from_view(service, names_of(materialized, service), tenant)
        newest = newest[newest["event_timestamp"] <= materialized.now]
        newest = newest.groupby("asset_id").tail(1).reset_index(drop=True)
        rows = read_online(
            materialized.store,
            get_service(materialized.store, service),
            tenant,
            newest["asset_id"].to_list(),
        )
        assert [row.hour for row in rows] == newest["event_timestamp"].to_list()
        actual = pd.DataFrame([row.features for row in rows]).astype("float64")
        pd.testing.assert_frame_equal(actual, newest[actual.columns], check_exact=True)


def test_online__keys_alone__return_exactly_the_service_and_the_keys(materialized: Energy) -> None:
    for service in SERVICES:
        response = materialized.store.get_online_features(
            features=materialized.store.get_feature_service(service),
            entity_rows=[{"tenant_id": materialized.main, "asset_id": "1"}],
        ).to_dict()
        assert set(response) == {"tenant_id", "asset_id", *names_of(materialized, service)}


def test_online__unknown_asset_and_foreign_tenant__have_nothing(materialized: Energy) -> None:
    service = get_service(materialized.store, "forecast_basic")
    for tenant, asset in ((materialized.main, "nope"), (materialized.twin, "11"), ("", "1")):
        (row,) = read_online(materialized.store, service, tenant, [asset])
        assert row.hour is None
        assert row.missing == names_of(materialized, "forecast_basic")
    assert read_online(materialized.store, service, materialized.main, []) == []


def test_tenants__equal_and_colliding_asset_names__keep_their_own_values(materialized: Energy) -> None:
    """Values of the tenants differ by orders of magnitude, so a stray one shows."""
    at = materialized.now
    pairs = [(materialized.main, "1"), (materialized.near, "11"), (materialized.twin, "1")]
    assert "".join(pairs[0]) == "".join(pairs[1])
    entities = pd.DataFrame([{"tenant_id": t, "asset_id": a, "event_timestamp": at} for t, a in pairs])
    offline = history(materialized, "forecast_basic", entities)["historical_avg_24h"].to_list()
    service = get_service(materialized.store, "forecast_basic")
    online: list[Any] = [
        read_online(materialized.store, service, tenant, [asset])[0].features["historical_avg_24h"]
        for tenant, asset in pairs
    ]
    assert offline == online
    for value, level in zip(offline, (3.0, 500.0, 9000.0), strict=True):
        assert level < value < 3 * level

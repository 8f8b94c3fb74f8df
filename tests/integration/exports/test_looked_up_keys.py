"""History and an export with features of views whose key the asset determines, from tables of a user."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.errors import FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64
from psycopg import sql

from ai_hub.db import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy
    from support.export_lab import ExportLab

UNIQUE = secrets.token_hex(4)
ZONE, ZONES, PRICES = (f"{name}_{UNIQUE}" for name in ("area", "areas", "prices"))
HOURS = 40
#: of each zone: a price every two hours
LEVELS = {"north": 100.0, "south": 900.0}


@pytest.fixture
def priced(energy: Energy) -> Iterator[str]:
    columns = f"{ZONE} text, event_timestamp timestamptz, published_at timestamptz, price float8"
    prices = [
        (zone, energy.now - timedelta(hours=back), energy.now, level + back)
        for zone, level in LEVELS.items()
        for back in range(0, HOURS + 2, 2)
    ]
    zones = [(energy.main, "1", "north"), (energy.main, "11", "south"), (energy.twin, "1", "south")]
    with connect() as connection, connection.cursor() as cursor:
        for table, described, rows in (
            (PRICES, columns, prices),
            (ZONES, f"tenant_id text, asset_id text, {ZONE} text", zones),
        ):
            cursor.execute(f"CREATE TABLE {table} ({described})".encode())
            marks = sql.SQL(", ").join([sql.Placeholder()] * len(rows[0]))
            cursor.executemany(
                sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), marks), rows
            )
    zone = Entity(name=ZONE, join_keys=[ZONE], value_type=ValueType.STRING, tags={"lookup": ZONES})
    view = FeatureView(
        name=PRICES,
        entities=[zone],
        ttl=timedelta(hours=2),
        schema=[Field(name="price", dtype=Float64)],
        source=PostgreSQLSource(
            name=PRICES,
            table=PRICES,
            timestamp_field="event_timestamp",
            created_timestamp_column="published_at",
            tags={"shared": "true"},
        ),
    )
    basic = energy.store.get_feature_view("forecast_basic_features")
    service = FeatureService(name=f"priced_{UNIQUE}", features=[basic[["lag_1h"]], view])
    applied = [zone, view, service]
    energy.store.apply(applied)
    yield service.name
    energy.store.apply([], objects_to_delete=applied, partial=False)
    with connect() as connection:
        for table in (PRICES, ZONES):
            connection.execute(f"DROP TABLE {table} CASCADE".encode())


def test_history__rows_of_assets__have_the_price_of_their_zone(energy: Energy, priced: str) -> None:
    times = [energy.now - timedelta(hours=back) for back in (4, 20)]
    wanted = [
        (tenant, asset, at)
        for tenant, asset in (
            (energy.main, "11"),
            (energy.twin, "1"),
            (energy.main, "none"),
            (energy.main, "1"),
            (energy.twin, "11"),
        )
        for at in times
    ]
    entity_rows = pd.DataFrame(wanted, columns=["tenant_id", "asset_id", "event_timestamp"])
    service = energy.store.get_feature_service(priced)
    history = energy.store.get_historical_features(entity_rows, service).to_df()
    expected = {
        (energy.main, "11"): "south",
        (energy.twin, "1"): "south",
        (energy.main, "1"): "north",
    }
    assert [None if pd.isna(zone) else zone for zone in history[ZONE]] == [
        expected.get((tenant, asset)) for tenant, asset, _ in wanted
    ]
    for row, (tenant, asset, at) in zip(history.itertuples(), wanted, strict=True):
        zone = expected.get((tenant, asset))
        want = zone and LEVELS[zone] + (energy.now - at) / timedelta(hours=1)
        assert (None if pd.isna(row.price) else row.price) == want


def test_history__key_that_no_table_of_assets_has__is_named(energy: Energy, priced: str) -> None:
    del priced
    region = Entity(name=f"a_region_{UNIQUE}", join_keys=[f"a_region_{UNIQUE}"], value_type=ValueType.STRING)
    view = FeatureView(
        name=f"regional_{UNIQUE}",
        entities=[region],
        schema=[Field(name="price", dtype=Float64)],
        source=PostgreSQLSource(
            name=f"regional_{UNIQUE}",
            query=f"SELECT asset_id AS a_region_{UNIQUE}, created_at AS at, 1.5 AS price FROM assets",  # noqa: S608  # constants
            timestamp_field="at",
        ),
    )
    energy.store.apply([region, view])
    try:
        rows = pd.DataFrame({"tenant_id": ["t"], "asset_id": ["a"], "event_timestamp": [energy.now]})
        with pytest.raises(FeastEntityDFMissingColumnsError, match=f"a_region_{UNIQUE}"):
            energy.store.get_historical_features(rows, [f"regional_{UNIQUE}:price"]).to_df()
        # before a key that is found: its own failure must not abort that one's query
        other = [f"regional_{UNIQUE}:price", f"{PRICES}:price"]
        with pytest.raises(FeastEntityDFMissingColumnsError, match=f"a_region_{UNIQUE}"):
            energy.store.get_historical_features(rows, other, full_feature_names=True).to_df()
    finally:
        energy.store.apply([], objects_to_delete=[region, view], partial=False)


def test_history__price_zone_of_the_register(energy: Energy) -> None:
    name = f"zonal_{UNIQUE}"
    zone = Entity(name="price_zone", join_keys=["price_zone"], value_type=ValueType.STRING)
    query = (
        "SELECT price_zone, now() - INTERVAL '9 days' AS event_timestamp, price"
        " FROM (VALUES ('NL', 70.5::float8), ('BE', 60.5)) AS prices (price_zone, price)"
    )
    view = FeatureView(
        name=name,
        entities=[zone],
        schema=[Field(name="price", dtype=Float64)],
        source=PostgreSQLSource(name=name, query=query, timestamp_field="event_timestamp"),
    )
    energy.store.apply([zone, view])
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, price_zone)"
            " VALUES ('zonal-a', '1', 'NL'), ('zonal-b', '1', 'BE')"
        )
    try:
        rows = pd.DataFrame(
            {"tenant_id": ["zonal-a", "zonal-b"], "asset_id": ["1", "1"], "event_timestamp": [energy.now] * 2}
        )
        found = energy.store.get_historical_features(rows, [f"{name}:price"]).to_df()
        assert found["price"].tolist() == [70.5, 60.5]
        # nobody keeps which zone an asset had before
        with pytest.raises(FeastEntityDFMissingColumnsError, match="price_zone"):
            energy.store.get_historical_features(rows, [f"{name}:price"], filter_by_created_timestamp=True)
    finally:
        energy.store.apply([], objects_to_delete=[zone, view], partial=False)
        with connect() as connection:
            connection.execute("DELETE FROM assets WHERE tenant_id IN ('zonal-a', 'zonal-b')")


def test_export__each_row_has_the_price_of_its_assets_zone(lab: ExportLab, priced: str) -> None:
    for tenant, zones in (
        (lab.energy.main, {"1": "north", "11": "south"}),
        (lab.energy.twin, {"1": "south"}),
    ):
        job = lab.export(lab.request(hours=HOURS, tenant=tenant, feature_set=priced))
        rows = lab.table(job).to_pylist()
        assert len(rows) >= HOURS
        for row in rows:
            back = (lab.energy.now - row["event_timestamp"]) / timedelta(hours=1)
            back += back % 2  # the price before it
            zone = zones.get(row["asset_id"])
            assert row["price"] == (None if zone is None else LEVELS[zone] + back), row

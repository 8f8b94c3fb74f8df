"""An export with features of a view whose key the asset determines, from tables of a user's own."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64
from psycopg import sql

from ai_hub.database import connect

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

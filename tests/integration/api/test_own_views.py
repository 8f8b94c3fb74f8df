"""Feature views of a user's own: over own tables, keyed by what an asset has one of, with other steps."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64
from psycopg import errors, sql
from support.feature_reading import Clock, ask, run
from support.feature_tables import register, write

from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)
UNIQUE = secrets.token_hex(4)
ZONE = f"zone_{UNIQUE}"
PRICES, ZONES, TARIFFS, SECRET = (f"{name}_{UNIQUE}" for name in ("prices", "zones", "tariffs", "secret"))
TIMES = "event_timestamp timestamptz, published_at timestamptz"


@dataclass
class Own:
    """Two tenants whose assets have equal names, an hour, and what was applied."""

    tenant: str
    twin: str
    hour: datetime
    applied: list[Any]


def source(table: str, **tags: str) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=table,
        table=table,
        timestamp_field="event_timestamp",
        created_timestamp_column="published_at",
        tags=tags,
    )


def quarter_view() -> FeatureView:
    query = (
        "SELECT tenant_id, asset_id, timestamp + INTERVAL '15 minutes' AS event_timestamp,"
        " ingested_at AS created_timestamp, value AS lag_15m FROM timeseries_data"
    )
    return FeatureView(
        name=f"quarter_{UNIQUE}",
        entities=[TENANT, ASSET],
        ttl=HOUR,
        schema=[Field(name="lag_15m", dtype=Float64)],
        source=PostgreSQLSource(
            name=f"quarter_{UNIQUE}",
            query=query,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


TENANT = Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING)
ASSET = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)


@pytest.fixture(scope="module")
def own(energy: Energy) -> Iterator[Own]:
    store = energy.store
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    made = Own(f"own-{secrets.token_hex(4)}", f"twin-{secrets.token_hex(4)}", hour, [])
    with connect() as connection:
        for tenant, level in ((made.tenant, 10.0), (made.twin, 900.0)):
            for asset in ("a", "b", "both", "none"):
                register(connection, tenant, asset, "UTC")
                times = [hour - 30 * HOUR + step * QUARTER for step in range(121)]
                write(connection, tenant, asset, {at: level + at.minute for at in times})
        for statement in (
            f"CREATE TABLE {PRICES} ({ZONE} text, {TIMES}, price float8)",
            f"CREATE TABLE {ZONES} (tenant_id text, asset_id text, {ZONE} text)",
            f"CREATE TABLE {TARIFFS} (tenant_id text, {ZONE} text, {TIMES}, tariff float8)",
            f"CREATE TABLE {SECRET} (LIKE {PRICES})",
        ):
            connection.execute(statement.encode())
        prices = [
            (zone, hour + step * HOUR, published, base + step + 30)
            for zone, base in (("DE-LU", 100.0), ("FR", 500.0))
            for step in range(-30, 3)
            for published, base in ((hour - 60 * HOUR, 0.0), (hour - 50 * HOUR, base))
        ]
        tariffs = [
            (tenant, "DE-LU", hour - 2 * HOUR, hour - 2 * HOUR, tariff)
            for tenant, tariff in ((made.tenant, 0.25), (made.twin, 0.75))
        ]
        zones = [
            (made.tenant, "a", "DE-LU"), (made.tenant, "b", "FR"), (made.tenant, "both", "DE-LU"),
            (made.tenant, "both", "FR"), (made.twin, "a", "FR"), (made.twin, "b", "DE-LU"),
        ]  # fmt: skip
        for table, rows in ((PRICES, prices), (TARIFFS, tariffs), (ZONES, zones), (SECRET, prices)):
            comma = sql.SQL(", ")
            values = comma.join(sql.SQL("({})").format(comma.join(map(sql.Literal, row))) for row in rows)
            connection.execute(sql.SQL("INSERT INTO {} VALUES {}").format(sql.Identifier(table), values))
    refresh()
    zone = Entity(name=ZONE, join_keys=[ZONE], value_type=ValueType.STRING, tags={"lookup": ZONES})
    fields = [Field(name="price", dtype=Float64)]
    price = FeatureView(
        name=PRICES, entities=[zone], ttl=HOUR, schema=fields, source=source(PRICES, shared="true")
    )
    secret = FeatureView(name=SECRET, entities=[zone], ttl=HOUR, schema=fields, source=source(SECRET))
    tariff = FeatureView(
        name=TARIFFS,
        entities=[TENANT, zone],
        ttl=4 * HOUR,
        schema=[Field(name="tariff", dtype=Float64)],
        source=source(TARIFFS),
        tags={"step": "1h"},
    )
    basic = store.get_feature_view("forecast_basic_features")
    quarter = quarter_view()
    made.applied = [
        zone, price, tariff, secret, quarter,
        FeatureService(name=f"priced_{UNIQUE}", features=[basic[["lag_1h"]], price, tariff]),
        FeatureService(name=f"secret_{UNIQUE}", features=[secret]),
        FeatureService(name=f"q15_{UNIQUE}", features=[quarter]),
    ]  # fmt: skip
    store.apply(made.applied)
    yield made
    store.apply([], objects_to_delete=made.applied, partial=False)
    with connect() as connection:
        for table in (PRICES, ZONES, TARIFFS, SECRET):
            connection.execute(f"DROP TABLE {table} CASCADE".encode())


def test_price_by_zone__of_each_tenants_asset__then_from_redis(own: Own) -> None:
    at = own.hour + timedelta(minutes=20)

    async def work(reader: FeatureReader) -> None:
        for turn in ("timescaledb", "redis"):
            for tenant, prices, tariffs in (
                (own.tenant, [130.0, 530.0, None, None], [0.25, None, None, None]),
                (own.twin, [530.0, 130.0, None, None], [None, 0.75, None, None]),
            ):
                assets = "a", "b", "both", "none"
                results = await ask(reader, tenant, *assets, feature_set=f"priced_{UNIQUE}")
                assert [each["features"]["price"] for each in results] == prices
                assert [each["features"]["tariff"] for each in results] == tariffs
                assert all(each["features"]["lag_1h"] is not None for each in results)
                assert results[0]["source"] == turn
                assert not any(each["degraded"] for each in results)

    run(work, Clock(at))


def test_price_by_zone__in_the_past__is_of_that_hour(own: Own) -> None:
    async def work(reader: FeatureReader) -> None:
        (result,) = await ask(
            reader, own.tenant, "a", feature_set=f"priced_{UNIQUE}", timestamp=own.hour - 5 * HOUR
        )
        assert result["features"]["price"] == 125.0

    run(work, Clock(own.hour + timedelta(minutes=20)))


def test_table_that_is_not_declared_shared__is_not_read(own: Own) -> None:
    async def work(reader: FeatureReader) -> None:
        (result,) = await ask(reader, own.tenant, "a", feature_set=f"secret_{UNIQUE}")
        assert result["features"] == {"price": None}
        assert result["degraded"]

    run(work, Clock(own.hour + timedelta(minutes=20)))


def test_service_login__own_tables_of_one_tenant_and_no_undeclared_one(own: Own) -> None:
    def rows(table: str, tenant: str) -> int:
        with connect() as connection, as_tenant(connection, tenant):
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            return int((connection.execute(query).fetchone() or (0,))[0])

    assert rows(TARIFFS, own.tenant) == rows(TARIFFS, own.twin) == 1
    assert (rows(ZONES, own.tenant), rows(ZONES, own.twin), rows(ZONES, "nobody")) == (4, 2, 0)
    assert rows(PRICES, "nobody") == 132
    for table in (SECRET, "api_keys_of_nobody", "sql_logins"):
        with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedTable)):
            rows(table, own.tenant)


@pytest.mark.parametrize("table", ["api_keys", "sql_logins"])
def test_tables_of_the_hub__are_served_to_nobody(own: Own, table: str) -> None:
    del own
    with connect() as connection:
        found = connection.execute(
            "SELECT problem FROM tenant_wall.serve_source(%s, true)", [table]
        ).fetchall()
        assert found == [("it is the hub's own",)]
        connection.rollback()


def test_migrate__keeps_what_is_served(own: Own) -> None:
    with connect() as connection:
        connection.execute("DELETE FROM schema_code")
    assert migrate().code_applied
    with connect() as connection, as_tenant(connection, own.twin):
        query = sql.SQL("SELECT tariff FROM {}").format(sql.Identifier(TARIFFS))
        assert connection.execute(query).fetchall() == [(0.75,)]


def test_quarter_hours__newest_row_and_its_own_time(own: Own) -> None:
    clock = Clock(own.hour + timedelta(minutes=3))

    async def work(reader: FeatureReader) -> None:
        for minutes, value in ((3, 10.0 + 45), (14, 10.0 + 45), (16, 10.0), (29, 10.0)):
            clock.time = own.hour + timedelta(minutes=minutes)
            (result,) = await ask(reader, own.tenant, "a", feature_set=f"q15_{UNIQUE}")
            assert result["features"] == {"lag_15m": value}, minutes
            assert result["event_timestamp"] == own.hour + timedelta(minutes=minutes // 15 * 15)

    run(work, clock)


def test_names_alone__only_where_they_mean_one_thing(own: Own) -> None:
    async def work(reader: FeatureReader) -> None:
        (result,) = await ask(reader, own.tenant, "a", feature_names=["tariff", "lag_15m"])
        assert result["features"]["tariff"] == 0.25
        with pytest.raises(BadInputError, match=rf"price in priced_{UNIQUE}, secret_{UNIQUE}") as refused:
            await ask(reader, own.tenant, "a", feature_names=["price"])
        assert f"priced_{UNIQUE}, secret_{UNIQUE}" in str(refused.value.hint)

    run(work, Clock(own.hour + timedelta(minutes=20)))

# ruff: noqa: E501, S608 - SQL as it is sent
"""Rows of declared views follow their assets, and come at the steps of their views."""

from __future__ import annotations

import secrets
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast.aggregation import Aggregation
from oracles.declared import DAY
from oracles.features import HOUR, Asset, Issue, Weather, floor_hour
from support.declared_views import applied, apply, declare, differences, fill, is_pending
from support.feature_tables import now, write, write_series, write_weather

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from feast_plugins.windows import (
    Lag,
    SameHour,
    Series,
    templates,
)
from feast_plugins.windows import (
    Weather as WeatherOf,
)
from feast_plugins.windows import (
    database as declared,
)

if TYPE_CHECKING:
    from feast_plugins.windows.declarations import Declaration


def test_rows__unit_and_weather_of_the_asset_change_after_they_are_stored__follow(
    database: str, tenant: str
) -> None:
    declaration = declare(
        f"meaning_{secrets.token_hex(4)}",
        {
            "lag": Lag("value", HOUR),
            "mean": Aggregation("value", "mean", 5 * HOUR, HOUR),
            "temperature": WeatherOf("temperature"),
        },
    )
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=30)
    quarters = {start + step * HOUR / 4: float(1 + step * 7 % 10) for step in range(4 * 20)}
    stations = {
        "near": [Weather(start + 2 * HOUR, start, 5.0)],
        "far": [Weather(start + 4 * HOUR, start, -7.0)],
    }
    # energy in intervals of 15 minutes: an hour is their sum; power: their mean
    energy, power = (
        Asset(
            "UTC",
            {
                start + hour * HOUR: sum(quarters[start + (hour + at / 4) * HOUR] for at in range(4)) / parts
                for hour in range(20)
            },
            stations[station],
        )
        for parts, station in ((1, "near"), (4, "far"))
    )
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, unit, interval_seconds, weather_asset_id)"
            " VALUES (%s, 'meter', 'kWh', 900, 'near')",
            [tenant],
        )
        for station, weather in stations.items():
            write_weather(connection, tenant, station, weather)
        write(connection, tenant, "meter", quarters)
        fill(connection, declaration)
        refresh(dsn=database)
        assert list(differences(connection, declaration, tenant, "meter", energy)) == []
        colder = Weather(start + 3 * HOUR, start + HOUR, 1.0)
        write_weather(connection, tenant, "near", [colder])
        energy.weather.append(colder)
        refresh(dsn=database)
        assert list(differences(connection, declaration, tenant, "meter", energy)) == []
        then = now(connection)
        connection.execute(
            "UPDATE assets SET unit = 'kW', weather_asset_id = 'far' WHERE tenant_id = %s", [tenant]
        )
        refresh(dsn=database)
        assert list(differences(connection, declaration, tenant, "meter", power)) == []
        known = differences(connection, declaration, tenant, "meter", energy, known_at=then)
        assert list(known) == []


def test_rows__price_zone_and_group_of_assets_change_after_they_are_stored__follow(
    database: str, tenant: str
) -> None:
    declaration = declare(
        f"keys_{secrets.token_hex(4)}",
        {
            "own": Lag("value", HOUR),
            "price": Series("price", by="price_zone"),
            "total": Lag("value@group", 2 * HOUR),
        },
    )
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=20)
    readings = {start + step * HOUR: float(step) for step in range(10)}
    prices = {
        zone: [Issue(start + step * HOUR, start, level + step) for step in range(20)]
        for zone, level in (("NL", 10.0), ("BE", 900.0))
    }
    meters = {
        name: Asset("UTC", {at: value + extra for at, value in readings.items()})
        for name, extra in (("a", 0.0), ("b", 50.0), ("c", 7.0))
    }

    def members(*names: str, zone: str = "NL") -> None:
        """What the meter `a` has from now on."""
        meters["a"].series = {"price@price_zone": prices[zone]}
        meters["a"].others = [meters[name] for name in names]

    with connect(database, autocommit=True) as connection, applied(connection, declaration):

        def check(change: str) -> None:
            connection.execute(change.encode(), [tenant])
            refresh(dsn=database)
            assert not is_pending(connection, declaration)
            assert list(differences(connection, declaration, tenant, "a", meters["a"])) == []

        for name, asset in meters.items():
            write(connection, tenant, name, asset.readings)
        for zone, issues in prices.items():
            write_series(connection, tenant, "price", zone, issues)
        fill(connection, declaration)
        members("b")
        check(
            'INSERT INTO assets (tenant_id, asset_id, price_zone, "group", unit) SELECT %s, * FROM'
            " (VALUES ('a', 'NL', 'north', 'kW'), ('b', 'NL', 'north', 'kW'), ('c', 'NL', 'south', 'kW')) AS new"
        )
        then, known = now(connection), deepcopy(meters["a"])
        members("b", zone="BE")
        check("UPDATE assets SET price_zone = 'BE' WHERE tenant_id = %s AND asset_id = 'a'")
        members("b", "c", zone="BE")
        check("UPDATE assets SET \"group\" = 'north' WHERE tenant_id = %s AND asset_id = 'c'")
        members("c", zone="BE")
        check("DELETE FROM assets WHERE tenant_id = %s AND asset_id = 'b'")
        # of kW and m3 there is no sum
        connection.execute(
            "UPDATE assets SET unit = 'm3/h' WHERE tenant_id = %s AND asset_id = 'c'", [tenant]
        )
        refresh(dsn=database)
        totals = connection.execute(
            f"SELECT DISTINCT total FROM {declaration.name} WHERE tenant_id = %s AND asset_id = 'a'".encode(),
            [tenant],
        ).fetchall()
        assert totals == [(None,)]
        assert list(differences(connection, declaration, tenant, "a", known, known_at=then)) == []


def test_rows__asset_has_other_keys_that_no_view_looks_at__are_not_computed_again(
    database: str, tenant: str
) -> None:
    declaration = declare(f"keyless_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=30)
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        connection.execute("INSERT INTO assets (tenant_id, asset_id) VALUES (%s, 'meter')", [tenant])
        write(connection, tenant, "meter", {start + step * HOUR: float(step) for step in range(20)})
        fill(connection, declaration)
        assert refresh(dsn=database).rows > 0
        connection.execute(
            "UPDATE assets SET price_zone = 'NL', \"group\" = 'north', weather_station = 's', timezone = 'Asia/Tokyo'"
            " WHERE tenant_id = %s",
            [tenant],
        )
        assert refresh(dsn=database).rows == 0
        connection.execute("UPDATE assets SET unit = 'kWh' WHERE tenant_id = %s", [tenant])
        assert refresh(dsn=database).rows > 0


def test_statistics__are_of_keys_and_made_again_where_the_table_has_grown(database: str) -> None:
    declaration = declare(f"statistics_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
    table = f"{declaration.name}_stored"
    with connect(database, autocommit=True) as connection, applied(connection, declaration):

        def insert(asset: str, rows: int, start: str) -> None:
            connection.execute(
                f"INSERT INTO {table} SELECT %s::timestamptz + step * INTERVAL '1 minute', 't', %s, 1, step, now()"
                " FROM generate_series(1, %s) AS step".encode(),
                [start, asset, rows],
            )
            connection.execute("SELECT analyze_grown(%s::regclass)", [table])

        def counted(asset: str, rows: int) -> int:
            """Rows of the newer chunks as their statistics have them, when there are so many more."""
            insert(asset, rows, "2026-05-01")
            query = (
                "SELECT sum(reltuples)::integer FROM pg_class"
                " WHERE oid IN (SELECT show_chunks(%s::regclass, newer_than => '2026-01-01'::timestamptz))"
            )
            return int(connection.execute(query, [table]).fetchall()[0][0])

        assert counted("a", 1000) == 1000
        names = connection.execute("SELECT attname FROM pg_stats WHERE tablename = %s", [table]).fetchall()
        assert ("hour",) in names
        assert ("lag",) not in names
        assert counted("b", 1) == 1000
        assert counted("c", 1000) == 2001
        # what goes into the columnstore does not make the rest look small
        insert("z", 20_000, "2025-05-01")
        connection.execute(
            "SELECT compress_chunk(chunk)"
            " FROM show_chunks(%s::regclass, older_than => '2026-01-01'::timestamptz) AS chunk",
            [table],
        )
        assert counted("d", 1000) == 3001
        connection.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
        assert counted("e", 1) == 3002


def test_sun_position__is_that_of_other_sources(database: str) -> None:
    # elevation without refraction, azimuth: by NREL's SPA (its published example) and the library astral 3.2
    expected = {
        (datetime(2003, 10, 17, 19, 30, 30, tzinfo=UTC), 39.742476, -105.1786): (39.872, 194.340),
        (datetime(2026, 6, 21, 11, tzinfo=UTC), 52.5, 13.4): (60.896, 176.124),
        (datetime(2026, 12, 21, 8, 30, tzinfo=UTC), -33.9, 151.2): (5.745, 245.543),
        (datetime(2040, 3, 1, 3, tzinfo=UTC), 78.2, 15.6): (-13.575, 59.406),
    }
    with connect(database) as connection:
        for place, degrees in expected.items():
            found = connection.execute(
                "SELECT sun_position('elevation', at, lat, lon), sun_position('azimuth', at, lat, lon)"
                " FROM (SELECT %s::timestamptz AS at, %s::float8 AS lat, %s::float8 AS lon) AS p",
                place,
            ).fetchone()
            assert found == pytest.approx(degrees, abs=0.05)


def test_reach__late_reading__changes_its_rows_only(database: str, tenant: str) -> None:
    declaration = declare(
        f"reach_{secrets.token_hex(4)}",
        {"lag": Lag("value", 48 * HOUR), "mean": Aggregation("value", "mean", timedelta(hours=2), HOUR)},
    )
    start = floor_hour(datetime.now(UTC)) - timedelta(days=10)
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        write(connection, tenant, "meter", {start + step * HOUR: float(step) for step in range(200)})
        fill(connection, declaration)
        refresh(dsn=database)
        write(connection, tenant, "meter", {start + 20 * HOUR: 1000.0})
        refresh(dsn=database)
        changed = connection.execute(
            f"SELECT hour FROM {declaration.name}_stored WHERE superseded_at IS NOT NULL"
        ).fetchall()
    assert sorted(int((hour - start) / HOUR) for (hour,) in changed) == [21, 22, 68]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1e300, 1e-300),
        (1e-300, 1e300),
        (-1.7e308, 1.7e308),
        (0.0, 1.0),
        (5e-324, 2.0),
        (1.0, 0.0),
        (3.0, -7.0),
    ],
)
def test_pairs__values_beyond_a_double__are_empty(database: str, left: float, right: float) -> None:
    with connect(database) as connection:
        query = "SELECT {}, {} FROM (SELECT %s::float8 AS l, %s::float8 AS r) AS pair".format(
            templates.DIFFERENCE.format(left="l", right="r"), templates.RATIO.format(left="l", right="r")
        )
        found = connection.execute(query.encode(), [left, right]).fetchone()
    assert found == (
        None if max(abs(left), abs(right)) > 8e307 else left - right,
        None if right == 0 or left in {1e300, 1e-300, 5e-324} else left / right,
    )


def test_refresh__rows_that_fail__are_left_out_and_the_others_stored(
    database: str, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = (
        declare(f"{name}_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)}) for name in ("good", "bad")
    )
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=30)
    with connect(database, autocommit=True) as connection, applied(connection, bad):
        leave_out = "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, '{(,)}' FROM asset_spans"
        apply(connection, good, bad)
        connection.execute(leave_out, [good.name])
        connection.execute(  # whatever may be wrong with one asset
            f"ALTER TABLE {bad.name}_stored ADD CHECK (asset_id <> 'odd')".encode()
        )
        for asset in ("odd", "even"):
            write(connection, tenant, asset, {start + step * HOUR: float(step) for step in range(30)})
        fill(connection, good)
        fill(connection, bad)
        refresh(dsn=database)
        pending = connection.execute("SELECT DISTINCT view_name, asset_id FROM declared_refresh_ranges")
        assert pending.fetchall() == [(bad.name, "odd")]
        assert f"rows of {bad.name} are not stored: tenant {tenant}, asset odd" in caplog.text
        progress = {each.view: each.rows - each.stored for each in declared.progress(connection)}
        assert progress[good.name] == 0
        assert progress[bad.name] == 30
        query = "SELECT count(*) FROM ai_features WHERE tenant_id = %s"
        assert connection.execute(query, [tenant]).fetchone() == (60,)


def test_steps__energy_of_several_intervals__is_the_power_of_each_step(database: str, tenant: str) -> None:
    """In London clocks go back in this night, so the day has 25 hours."""
    midnight = datetime(2025, 10, 25, 23, tzinfo=UTC)
    quarter, next_midnight = HOUR / 4, datetime(2025, 10, 27, 0, tzinfo=UTC)
    quarters, days = (
        declare(
            f"{name}_{secrets.token_hex(4)}",
            {"lag": Lag("value", step), **{key: Aggregation("value", *of, step) for key, of in more.items()}},
            step,
        )
        for name, step, more in (
            ("quarters", quarter, {"sum_1h": ("sum", HOUR), "count": ("count", quarter)}),
            ("days", DAY, {"sum": ("sum", DAY)}),
        )
    )
    with connect(database, autocommit=True) as connection, applied(connection, quarters):
        apply(connection, quarters, days)
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, timezone, unit, reading, interval_seconds, register_digits)"
            " SELECT %s, asset, 'Europe/London', 'kWh', kind, seconds, digits FROM (VALUES"
            "  ('quarterly', 'energy', 900, NULL), ('hourly', 'energy', 3600, NULL), ('daily', 'energy', 90000, NULL),"
            "  ('register', 'register', 900, 3)) AS given (asset, kind, seconds, digits)",
            [tenant],
        )
        write(connection, tenant, "quarterly", {midnight + at * quarter: 1.0 + at % 4 for at in range(100)})
        write(connection, tenant, "hourly", {midnight + at * HOUR: 2.0 for at in range(25)})
        write(connection, tenant, "daily", {midnight: 240.0})
        # it passes its highest number, 999, in the second quarter hour
        connection.cursor().executemany(
            'INSERT INTO register_readings ("timestamp", tenant_id, asset_id, value)'
            " VALUES (%s, %s, 'register', %s)",
            [(midnight + at * quarter, tenant, (996 + 3 * at) % 1000) for at in range(101)],
        )

        def row(asset: str, declaration: Declaration, at: datetime) -> Any:
            names = ", ".join(declaration.features)
            query = f"SELECT {names} FROM {declaration.name} WHERE tenant_id = %s AND asset_id = %s AND event_timestamp = %s".encode()
            return connection.execute(query, [tenant, asset, at]).fetchone()

        for is_stored in (False, True):
            if is_stored:
                fill(connection, quarters)
                fill(connection, days)
                refresh(dsn=database)
            at = midnight + 2 * HOUR
            assert row("quarterly", quarters, at) == (16.0, 10.0, 1)
            assert row("quarterly", quarters, at + quarter) == (4.0, 10.0, 1)
            assert row("register", quarters, at) == (12.0, 12.0, 1)
            # its energy goes on after the quarter hour
            assert row("hourly", quarters, at + quarter) == (None, None, 1)
            assert row("quarterly", days, next_midnight) == (10.0, 250.0)
            assert row("hourly", days, next_midnight) == (2.0, 50.0)
            assert row("daily", days, next_midnight) == pytest.approx((9.6, 240.0))
            assert row("register", days, next_midnight) == pytest.approx((12.0, 300.0))


def test_days__midnight_comes_twice__the_first_begins_the_day(database: str, tenant: str) -> None:
    functions = {name: Aggregation("value", name, 2 * DAY, DAY) for name in ("sum", "count", "first")}
    declaration = declare(
        f"twice_{secrets.token_hex(4)}",
        {"lag": Lag("value", DAY), "same": SameHour("value", "mean", 3), **functions},
    )
    start = datetime(2025, 10, 22, tzinfo=UTC)
    readings = {start + at * HOUR / 2: float(at) for at in range(48 * 16)}
    meters = {zone: Asset(zone, readings) for zone in ("Atlantic/Azores", "America/Havana")}
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        for zone in meters:
            query = "INSERT INTO assets (tenant_id, asset_id, timezone) VALUES (%s, %s, %s)"
            connection.execute(query, [tenant, zone, zone])
            write(connection, tenant, zone, readings)

        def check() -> None:
            for zone, meter in meters.items():
                assert list(differences(connection, declaration, tenant, zone, meter)) == []

        check()  # computed when they are read
        fill(connection, declaration)
        refresh(dsn=database)
        check()
        for zone, at in (("Atlantic/Azores", "2025-10-26 00:30Z"), ("America/Havana", "2025-11-02 04:30Z")):
            correction = {datetime.fromisoformat(at): 1000.0}
            meters[zone].readings = readings | correction
            write(connection, tenant, zone, correction)
        refresh(dsn=database)
        check()


def zone_of_midnight(hour: int) -> str:
    """A time zone whose days begin at this hour of UTC."""
    hour %= 24
    return f"Etc/GMT+{hour}" if hour <= 12 else f"Etc/GMT-{24 - hour}"


def test_days__asset_moves_to_where_the_day_begins_later__rows_follow(database: str, tenant: str) -> None:
    declaration = declare(f"west_{secrets.token_hex(4)}", {"lag": Lag("value", DAY)}, DAY)
    this_hour = floor_hour(datetime.now(UTC))
    readings = {this_hour - at * HOUR: float(at) for at in range(24 * 5)}
    # today's row there is stored when the asset moves to where this day has not begun
    before, after = (Asset(zone_of_midnight(this_hour.hour + hours), readings) for hours in (-1, 3))
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        query = "INSERT INTO assets (tenant_id, asset_id, timezone) VALUES (%s, 'meter', %s)"
        connection.execute(query, [tenant, before.zone])
        write(connection, tenant, "meter", readings)
        fill(connection, declaration)
        refresh(dsn=database)
        assert list(differences(connection, declaration, tenant, "meter", before)) == []
        then = now(connection)
        connection.execute("UPDATE assets SET timezone = %s WHERE tenant_id = %s", [after.zone, tenant])
        refresh(dsn=database)
        assert list(differences(connection, declaration, tenant, "meter", after)) == []
        assert list(differences(connection, declaration, tenant, "meter", before, known_at=then)) == []


def test_days__time_zone_of_the_asset_changes__rows_follow(database: str, tenant: str) -> None:
    declaration = declare(
        f"zone_{secrets.token_hex(4)}",
        {"lag": Lag("value", DAY), "mean": Aggregation("value", "mean", 2 * DAY, DAY)},
    )
    start = datetime(2026, 3, 20, tzinfo=UTC)
    meter = Asset("Europe/London", {start + at * HOUR: float(at) for at in range(24 * 12)})
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        query = "INSERT INTO assets (tenant_id, asset_id, timezone) VALUES (%s, 'meter', 'Europe/London')"
        connection.execute(query, [tenant])
        write(connection, tenant, "meter", meter.readings)
        fill(connection, declaration)
        refresh(dsn=database)
        assert list(differences(connection, declaration, tenant, "meter", meter)) == []
        then = now(connection)
        connection.execute("UPDATE assets SET timezone = 'Asia/Kolkata' WHERE tenant_id = %s", [tenant])
        refresh(dsn=database)
        moved = Asset("Asia/Kolkata", meter.readings)
        assert list(differences(connection, declaration, tenant, "meter", moved)) == []
        known = differences(connection, declaration, tenant, "meter", meter, known_at=then)
        assert list(known) == []

"""An hour's value follows from what its readings are, and which of them count from the tenant's policy."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from support.feature_tables import now, write

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh
from ai_hub.ingest import policies

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)
START = datetime(2026, 10, 1, tzinfo=UTC)
FEATURES = (
    *("historical_avg_24h", "historical_std_24h", "historical_min_24h", "historical_max_24h"),
    *("lag_1h", "lag_24h", "lag_168h"),
)
_DRAWN = random.Random(13)  # noqa: S311 - no secret
#: Mean power of each quarter-hour of nine days, in kW.
QUARTERS = [round(_DRAWN.uniform(0, 5), 3) for _ in range(4 * 24 * 9)]
PER_KW = {"kW": 1.0, "W": 1000.0, "kWh": 1.0, "Wh": 1000.0, "MWh": 0.001}


def add(
    connection: psycopg.Connection, tenant: str, asset: str, unit: str | None, minutes: int | None = None
) -> None:
    connection.execute(
        "INSERT INTO assets (tenant_id, asset_id, unit, interval_seconds) VALUES (%s, %s, %s, %s)",
        [tenant, asset, unit, minutes and minutes * 60],
    )


def readings(unit: str, minutes: int, quarters: list[float] = QUARTERS) -> dict[datetime, float]:
    """One building as a meter of this unit and interval reads it."""
    size = minutes // 15
    hours = minutes / 60 if unit.endswith("h") else 1.0
    return {
        START + at * QUARTER: sum(quarters[at : at + size]) / size * hours * PER_KW[unit]
        for at in range(0, len(quarters), size)
    }


def rows(connection: psycopg.Connection, tenant: str, asset: str) -> dict[datetime, tuple[float | None, ...]]:
    found = connection.execute(
        f"SELECT event_timestamp, {', '.join(FEATURES)} FROM ai_features"  # noqa: S608
        " WHERE tenant_id = %s AND asset_id = %s",
        [tenant, asset],
    ).fetchall()
    return {hour: tuple(values) for hour, *values in found}


def lag(connection: psycopg.Connection, tenant: str, asset: str, hour: datetime) -> float | None:
    return connection.execute(
        "SELECT lag_1h FROM ai_features WHERE tenant_id = %s AND asset_id = %s AND event_timestamp = %s",
        [tenant, asset, hour],
    ).fetchone()[0]  # type: ignore[index]


def test_features__one_building_in_any_unit_and_interval__are_equal(database: str, tenant: str) -> None:
    with connect(database, autocommit=True) as connection:
        for unit in ("kWh", "Wh", "kW"):
            for minutes in (15, 30, 60):
                add(connection, tenant, f"{unit}{minutes}", unit, minutes)
                write(connection, tenant, f"{unit}{minutes}", readings(unit, minutes))
        refresh(dsn=database)
        stored = {name: rows(connection, tenant, name) for name in ("kW60", "kWh15", "Wh30", "kWh60", "kW15")}
        hour = START + 8 * 24 * HOUR
        mean = sum(QUARTERS[4 * 7 * 24 : 4 * 8 * 24]) / 96
        got = connection.execute(
            "SELECT window_avg FROM get_rolling_features(%s, 'Wh15', %s, 24)", [tenant, hour]
        ).fetchone()
        assert got == (pytest.approx(mean, rel=1e-9),)
        connection.execute("DELETE FROM ai_features_stored WHERE tenant_id = %s", [tenant])
        connection.execute("DELETE FROM declared_spans WHERE tenant_id = %s", [tenant])
        computed = rows(connection, tenant, "Wh15")
    want = stored["kW60"]
    assert want[hour][0] == pytest.approx(mean, rel=1e-9)
    for found in (*stored.values(), computed):
        assert found.keys() == want.keys()
        for at, values in found.items():
            for value, other in zip(values, want[at], strict=True):
                assert (value is None) == (other is None)
                assert value is None or value == pytest.approx(other, rel=1e-9, abs=1e-9)


def test_features__change_of_cadence__keeps_the_hours(database: str, tenant: str) -> None:
    """Half-hours become quarters within an hour; the meter's default stays what it was."""
    with connect(database, autocommit=True) as connection:
        for unit in ("kWh", "kW"):
            add(connection, tenant, unit, unit)
            hours = 0.25 if unit == "kWh" else 1.0
            for at, minutes, value in ((0, 30, 2.0), (30, 15, 6.0), (45, 15, 8.0)):
                amount = value * hours * minutes / 15 if unit == "kWh" else value
                connection.execute(
                    'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value, interval_seconds)'
                    " VALUES (%s, %s, %s, %s, %s)",
                    [START + timedelta(minutes=at), tenant, unit, amount, minutes * 60],
                )
        refresh(dsn=database)
        assert lag(connection, tenant, "kWh", START + HOUR) == pytest.approx(4.5, rel=1e-12)
        assert lag(connection, tenant, "kW", START + HOUR) == pytest.approx(4.5, rel=1e-12)


def test_features__interval_or_unit_corrected__are_computed_anew_and_known_as_before(
    database: str, tenant: str
) -> None:
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "m", {START + at * QUARTER: 1.0 for at in range(8)})
        add(connection, tenant, "m", "kWh")
        refresh(dsn=database)
        # energy of an interval that nobody said has no value, rather than a wrong one
        assert lag(connection, tenant, "m", START + 2 * HOUR) is None
        seen = []
        for change, want in (("interval_seconds = 900", 4.0), ("unit = 'MWh'", 4000.0), ("unit = NULL", 1.0)):
            connection.execute(f"UPDATE assets SET {change} WHERE tenant_id = %s", [tenant])  # type: ignore[arg-type]  # noqa: S608
            refresh(dsn=database)
            assert lag(connection, tenant, "m", START + 2 * HOUR) == pytest.approx(want, rel=1e-12)
            seen.append((now(connection), want))
        for time, want in seen:
            known = connection.execute(
                "SELECT lag_1h FROM ai_features_stored WHERE tenant_id = %s AND hour = %s"
                " AND created_timestamp <= %s AND (superseded_at IS NULL OR superseded_at > %s)",
                [tenant, START + 2 * HOUR, time, time],
            ).fetchall()
            assert known == [(pytest.approx(want, rel=1e-12),)]


def test_features__quality__follows_the_tenant_s_policy(database: str, tenant: str) -> None:
    other = f"{tenant}-x"
    with connect(database, autocommit=True) as connection:
        for name in (tenant, other):
            for at, (value, quality) in enumerate([(1.0, "good"), (3.0, "estimated"), (100.0, "suspect")]):
                connection.execute(
                    'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value, quality)'
                    " VALUES (%s, %s, 'm', %s, %s)",
                    [START + at * QUARTER, name, value, quality],
                )
        refresh(dsn=database)
        assert lag(connection, tenant, "m", START + HOUR) == 2.0
        before = now(connection)
        assert policies.save_quality_policy(connection, tenant, {"suspect": True, "estimated": False}) == 2
        assert policies.save_quality_policy(connection, tenant, {"suspect": True}) == 0
        defaults = {"suspect": False, "estimated": True, "found": True}
        assert policies.find_quality_policy(connection, other) == defaults
        refresh(dsn=database)
        assert lag(connection, tenant, "m", START + HOUR) == 50.5
        assert lag(connection, other, "m", START + HOUR) == 2.0
        known = connection.execute(
            "SELECT lag_1h FROM ai_features_stored WHERE tenant_id = %s AND hour = %s"
            " AND created_timestamp <= %s AND superseded_at > %s",
            [tenant, START + HOUR, before, before],
        ).fetchall()
        assert known == [(2.0,)]
        # a corrected reading counts again
        connection.execute(
            "UPDATE timeseries_data SET quality = 'good' WHERE tenant_id = %s AND quality = 'estimated'",
            [tenant],
        )
        refresh(dsn=database)
        assert lag(connection, tenant, "m", START + HOUR) == pytest.approx(104 / 3, rel=1e-12)


# an upgrade with rows that is tried always: test_migrate.py
@pytest.mark.long
def test_migrate__database_with_readings__has_the_features_of_a_new_one(
    blank_database: str, tmp_path: Path
) -> None:
    """Half-hourly energy from before intervals: the step of the stored readings tells the interval."""
    old = tmp_path / "sql"
    (old / "code").mkdir(parents=True)
    (old / "migrations").mkdir()
    for path in sorted((paths.resource("sql") / "migrations").glob("*.sql"))[:17]:
        (old / "migrations" / path.name).write_bytes(path.read_bytes())
    migrate(blank_database, sql=old)
    values = readings("kWh", 30)
    with connect(blank_database, autocommit=True) as connection:
        connection.execute("INSERT INTO assets (tenant_id, asset_id, unit) VALUES ('old', 'm', 'kWh')")
        write(connection, "old", "m", values)
        connection.execute("UPDATE timeseries_data SET quality = 'suspect' WHERE value > 2.4")
        connection.execute(
            "INSERT INTO asset_spans (tenant_id, asset_id, first_hour, last_hour, periods)"
            " SELECT 'old', 'm', first, last,"
            " tstzmultirange(tstzrange(first, last + INTERVAL '168 hours', '[]'))"
            " FROM (SELECT %s::timestamptz, %s::timestamptz) AS span (first, last)",
            [START, START + (24 * 9 - 1) * HOUR],
        )
        migrate(blank_database)
        add(connection, "new", "m", "kWh", 30)
        write(connection, "new", "m", values)
        connection.execute("UPDATE timeseries_data SET quality = 'suspect' WHERE value > 2.4")
        refresh(dsn=blank_database)
        migrated = rows(connection, "old", "m")
        assert migrated == rows(connection, "new", "m")
        assert sum(values[5] is not None for values in migrated.values()) > 100

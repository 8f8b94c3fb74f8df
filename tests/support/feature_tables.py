"""Writes readings and weather, and compares what the database makes of them with the oracle."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from oracles.features import Asset, Issue, Weather, floor_hour, same
from psycopg import sql
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

VIEWS = {
    "forecast_basic": (
        *("hour_of_day", "day_of_week", "is_weekend"),
        *("historical_avg_24h", "lag_1h", "lag_24h"),
    ),
    "forecast_advanced": (
        *("hour_of_day", "day_of_week", "day_of_month", "month", "is_weekend"),
        *("historical_avg_24h", "historical_std_24h", "lag_1h", "lag_24h", "lag_168h"),
        *("temperature", "humidity", "solar_irradiance"),
    ),
    "anomaly_detection": (
        *("hour_of_day", "day_of_week", "historical_avg_24h", "historical_std_24h"),
        *("historical_min_24h", "historical_max_24h", "lag_1h"),
    ),
}

_HAS_ARRIVALS = (
    "SELECT FROM information_schema.columns"
    " WHERE table_name = 'timeseries_data' AND column_name = 'available_at'"
)


def write(
    connection: psycopg.Connection,
    tenant: str,
    asset: str,
    readings: dict[datetime, float],
    arrived: Mapping[datetime, datetime] = MappingProxyType({}),
) -> None:
    if (
        not arrived and connection.execute(_HAS_ARRIVALS).fetchone() is None
    ):  # a database of an earlier version
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)",
            [tenant, asset, list(readings), list(readings.values())],
        )
        return
    connection.execute(
        'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value, available_at)'
        " SELECT time, %s, %s, value, available_at"
        " FROM unnest(%s::timestamptz[], %s::float8[], %s::timestamptz[]) AS r (time, value, available_at)"
        ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
        " DO UPDATE SET value = excluded.value, available_at = excluded.available_at, ingested_at = now()",
        [tenant, asset, list(readings), list(readings.values()), [arrived.get(at) for at in readings]],
    )


def write_weather(connection: psycopg.Connection, tenant: str, asset: str, rows: list[Weather]) -> None:
    columns = zip(
        *(
            (
                *(row.valid_at, row.available_at),
                *(row.temperature, row.humidity, row.solar_irradiance, row.wind_speed),
            )
            for row in rows
        ),
        strict=True,
    )
    names = '"timestamp", available_at, temperature, humidity, solar_irradiance, wind_speed'
    connection.execute(
        f"INSERT INTO weather_features ({names}, tenant_id, asset_id) SELECT w.*, %s, %s"  # noqa: S608  # constants
        " FROM unnest(%s::timestamptz[], %s::timestamptz[], %s::float8[], %s::float8[], %s::float8[],"
        " %s::float8[]) AS w"
        " ON CONFLICT DO NOTHING",
        [tenant, asset, *map(list, columns)],
    )


def write_series(
    connection: psycopg.Connection, tenant: str, series: str, zone: str, issues: list[Issue]
) -> None:
    connection.execute(
        'INSERT INTO covariates (tenant_id, series, zone, "timestamp", available_at, value)'
        " SELECT %s, %s, %s, * FROM unnest(%s::timestamptz[], %s::timestamptz[], %s::float8[])"
        ' ON CONFLICT (tenant_id, series, zone, "timestamp", available_at)'
        " DO UPDATE SET value = excluded.value, ingested_at = now()",
        [
            *(tenant, series, zone, [each.valid_at for each in issues]),
            *([each.available_at for each in issues], [each.value for each in issues]),
        ],
    )


def register(connection: psycopg.Connection, tenant: str, asset: str, zone: str) -> None:
    connection.execute(
        "INSERT INTO assets (tenant_id, asset_id, timezone) VALUES (%s, %s, %s)", [tenant, asset, zone]
    )


def now(connection: psycopg.Connection) -> datetime:
    """The database's clock."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    time: datetime = row[0]
    return time


def assert_views_equal(
    connection: psycopg.Connection,
    tenant: str,
    asset: str,
    expected: Asset,
    *,
    known_at: datetime | None = None,
) -> None:
    """Every row of the views, or every version known at a time, is what the oracle says."""
    for problem in differences(connection, tenant, asset, expected, known_at=known_at):
        raise AssertionError(problem)


def differences(
    connection: psycopg.Connection,
    tenant: str,
    asset: str,
    expected: Asset,
    *,
    known_at: datetime | None = None,
) -> Iterator[str]:
    """How the views differ from the oracle."""
    hours = expected.hours(floor_hour(known_at or datetime.now(UTC)))
    scale = max(map(abs, expected.readings.values()), default=1.0)
    row_at = cache(expected.row)
    for view, features in VIEWS.items():
        rows = _rows(connection, view, tenant, asset, known_at)
        if [row["event_timestamp"] for row in rows] != hours:
            yield f"{view}: {len(rows)} rows instead of {len(hours)}"
            continue
        for row in rows:
            want = row_at(row["event_timestamp"])
            for name in features:
                if not same(row[name], want[name], scale):
                    yield f"{view} {row['event_timestamp']} {name}: {row[name]} instead of {want[name]}"
            if row["timezone"] != expected.zone:
                yield f"{view}: zone {row['timezone']}"


def _rows(
    connection: psycopg.Connection, view: str, tenant: str, asset: str, known_at: datetime | None
) -> list[dict[str, Any]]:
    query = sql.SQL(
        "SELECT * FROM {} WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s {} ORDER BY event_timestamp"
    )
    if known_at is None:
        query = query.format(sql.Identifier(f"{view}_features"), sql.SQL(""))
    else:
        known = "AND created_timestamp <= %(at)s AND (superseded_at IS NULL OR superseded_at > %(at)s)"
        query = query.format(sql.Identifier(f"{view}_feature_versions"), sql.SQL(known))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, {"tenant": tenant, "asset": asset, "at": known_at}).fetchall()

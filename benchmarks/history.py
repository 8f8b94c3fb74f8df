"""Synthetic meters: hourly readings with a daily and a weekly cycle, noise, and one weather station."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

HOUR = timedelta(hours=1)
TENANT = "bench"
STATION = "station"
SEED = 7
#: Rows of one INSERT, as `ai-hub ingest` sends them.
CHUNK_ROWS = 10_000
_WORKDAYS = 5

_INSERT = sql.SQL(
    'INSERT INTO {table} (tenant_id, asset_id, "timestamp", value)'
    " SELECT {tenant}, asset_id, to_timestamp(second), value"
    " FROM unnest(%s::text[], %s::bigint[], %s::float8[]) AS given (asset_id, second, value)"
)
#: Into the hypertable, with its triggers.
INSERT = _INSERT.format(table=sql.Identifier("timeseries_data"), tenant=TENANT)
#: Into a table with the same key and no triggers: what writing the rows costs at least.
INSERT_BARE = _INSERT.format(table=sql.Identifier("bench_floor"), tenant=TENANT)
CREATE_BARE = "CREATE TABLE bench_floor (LIKE timeseries_data INCLUDING ALL)"
#: What `ai-hub ingest` does with a corrected reading.
CORRECT = INSERT + sql.SQL(
    ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
    " DO UPDATE SET value = excluded.value, ingested_at = excluded.ingested_at"
)
_WEATHER = (
    "INSERT INTO weather_features"
    ' (tenant_id, asset_id, "timestamp", available_at, temperature, humidity, solar_irradiance)'
    " SELECT %s, %s, time, time, temperature, 60, greatest(0, temperature * 20)"
    " FROM unnest(%s::bigint[], %s::float8[]) AS given (second, temperature), to_timestamp(second) AS time"
)
_ASSETS = (
    "INSERT INTO assets (tenant_id, asset_id, kind, unit, interval_seconds, weather_asset_id)"
    " SELECT %s, asset_id, 'electricity', 'kWh', %s, %s FROM unnest(%s::text[]) AS asset_id"
)


def this_hour() -> datetime:
    """The current hour in UTC."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Rows:
    """Readings, one list per column."""

    assets: list[str]
    seconds: list[int]
    values: list[float]

    def __len__(self) -> int:
        return len(self.seconds)

    def chunks(self, size: int) -> Iterator[list[list[str] | list[int] | list[float]]]:
        """Parameters of consecutive INSERTs of at most `size` rows."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield [self.assets[rows], self.seconds[rows], self.values[rows]]


@dataclass(frozen=True)
class History:
    """Readings of `assets` meters every `minutes` for `days` days; the last hour of them is `end`."""

    assets: int
    days: int
    end: datetime
    minutes: int = 60

    @property
    def start(self) -> datetime:
        """The first reading's hour."""
        return self.end - timedelta(days=self.days) + HOUR

    @property
    def names(self) -> list[str]:
        """Names of the meters."""
        return [f"meter-{number:03}" for number in range(self.assets)]

    def rows(self) -> Rows:
        """All readings, meter by meter."""
        random = np.random.default_rng(SEED)
        hours = np.arange(self.days * 24 * 60 // self.minutes) * self.minutes / 60
        cycle = 2 + np.sin(hours / 24 * 2 * np.pi) - 0.7 * (hours // 24 % 7 >= _WORKDAYS)
        values = np.outer(random.uniform(0.5, 50, self.assets), cycle)
        # meters have three decimals
        values = (values + random.normal(0, 0.2, values.shape)).round(3)
        seconds = int(self.start.timestamp()) + (hours * 3600).astype(np.int64)
        return Rows(
            [name for name in self.names for _ in hours],
            np.tile(seconds, self.assets).tolist(),
            values.ravel().tolist(),
        )

    def hour(self, hour: datetime, seed: int) -> Rows:
        """One reading per meter in `hour`."""
        values = np.random.default_rng(seed).uniform(0.5, 100, self.assets).round(3)
        return Rows(self.names, [int(hour.timestamp())] * self.assets, values.tolist())

    def add_assets(self, connection: psycopg.Connection) -> None:
        """Register the meters, and the weather of their one station through `end`."""
        connection.execute(_ASSETS, [TENANT, self.minutes * 60, STATION, self.names])
        hours = np.arange(self.days * 24)
        noise = np.random.default_rng(SEED).normal(0, 1, len(hours))
        temperature = (10 + 8 * np.sin(hours / 24 * 2 * np.pi) + noise).round(1)
        seconds = int(self.start.timestamp()) + hours * 3600
        connection.execute(_WEATHER, [TENANT, STATION, seconds.tolist(), temperature.tolist()])


def write(connection: psycopg.Connection, rows: Rows, statement: sql.Composed = INSERT) -> None:
    """Write readings in chunks, each a transaction if the connection is in autocommit mode."""
    for chunk in rows.chunks(CHUNK_ROWS):
        connection.execute(statement, chunk)

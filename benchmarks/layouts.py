"""The rows that every layout is filled with, and the aggregates over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.lab import Lab

TENANTS = 4
ASSETS = 25
DAYS = 365
ONE = "tenant_id = 'tenant-2' AND asset_id = 'meter-007'"
HOUR = "date_trunc('hour', now())"
DAY_AGO = f"{HOUR} - INTERVAL '1 day'"
#: What every layout is filled from: the same values with every run.
METERS = """
CREATE TABLE meters AS
SELECT 'tenant-' || tenant AS tenant_id, 'meter-' || lpad(asset::text, 3, '0') AS asset_id,
    tenant * 7 + asset AS level
FROM generate_series(1, {tenants}) AS tenant, generate_series(1, {assets}) AS asset
"""
READINGS = """
CREATE TABLE {name} (
    "timestamp" timestamptz NOT NULL, tenant_id text NOT NULL, asset_id text NOT NULL,
    value double precision NOT NULL,
    quality text NOT NULL DEFAULT 'good' CHECK (quality IN ('good', 'estimated', 'suspect')),
    ingested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, asset_id, "timestamp")
);
SELECT create_hypertable('{name}', by_range('timestamp', INTERVAL '{chunk}'), create_default_indexes => false)
"""
FILL = """
SELECT setseed(0.7);
INSERT INTO {name} ("timestamp", tenant_id, asset_id, value)
SELECT time, tenant_id, asset_id,
    floor(1000 * (level * (2 + sin(extract(epoch FROM time) / 86400 * 2 * pi())) + random())) / 1000
FROM generate_series('{start}'::timestamptz, '{end}'::timestamptz, INTERVAL '{step}') AS time, meters
"""
AGGREGATE = """
CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, {options}) AS
SELECT tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp") AS hour,
    avg(value) AS avg_value, stddev_samp(value) AS std_value,
    min(value) AS min_value, max(value) AS max_value,
    count(*) AS sample_count, stats_state(value) AS value_stats, max(ingested_at) AS last_ingested_at
FROM {source} GROUP BY tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp") WITH NO DATA
"""
STATE = """
CREATE AGGREGATE stats_state(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
);
CREATE AGGREGATE stats_merge(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
)
"""
OWN_INDEX = "timescaledb.create_group_indexes = false"


def fill(
    laboratory: Lab, name: str, *, chunk: str = "30 days", step: str = "1 hour", days: int = DAYS
) -> None:
    """A hypertable of readings up to this hour."""
    laboratory.execute(READINGS.format(name=name, chunk=chunk))
    start, end = (
        laboratory.value(f"SELECT {HOUR} - INTERVAL '{back}'") for back in (f"{days} days", "1 minute")
    )
    laboratory.execute(FILL.format(name=name, start=start, end=end, step=step))
    laboratory.execute(f"ANALYZE {name}")


def aggregate(laboratory: Lab, name: str, source: str, *, real_time: bool = False) -> None:
    """An hourly aggregate with the index that ours has."""
    options = f"{OWN_INDEX}, timescaledb.materialized_only = {str(not real_time).lower()}"
    laboratory.execute(AGGREGATE.format(name=name, source=source, options=options))
    laboratory.execute(f"CREATE INDEX ON {name} (tenant_id, asset_id, hour)")

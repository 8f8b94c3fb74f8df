-- Hourly and daily statistics that merge exactly into larger windows.

-- State {count, sum, sum of squared deviations} with PostgreSQL's own float8 functions: updated by
-- Youngs and Cramer's method and merged by Chan's, so no cancellation at large means and small spreads.
CREATE AGGREGATE stats_state(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
);
CREATE AGGREGATE stats_merge(double precision[]) (
    SFUNC = float8_combine, STYPE = double precision[], COMBINEFUNC = float8_combine,
    INITCOND = '{0,0,0}', PARALLEL = SAFE
);

-- Real-time (materialized_only = false): hours not yet refreshed are aggregated from the readings.
CREATE MATERIALIZED VIEW hourly_features
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT
    tenant_id,
    asset_id,
    time_bucket(INTERVAL '1 hour', "timestamp") AS hour,
    avg(value) AS avg_value,
    stddev_samp(value) AS std_value,
    min(value) AS min_value,
    max(value) AS max_value,
    count(*) AS sample_count,
    stats_state(value) AS value_stats,
    max(ingested_at) AS last_ingested_at
FROM timeseries_data
GROUP BY tenant_id, asset_id, time_bucket(INTERVAL '1 hour', "timestamp")
WITH NO DATA;
CREATE INDEX hourly_features_by_asset ON hourly_features (tenant_id, asset_id, hour);

CREATE MATERIALIZED VIEW daily_features
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT
    tenant_id,
    asset_id,
    time_bucket(INTERVAL '1 day', hour) AS day,
    float8_avg(stats_merge(value_stats)) AS avg_value,
    float8_stddev_samp(stats_merge(value_stats)) AS std_value,
    min(min_value) AS min_value,
    max(max_value) AS max_value,
    sum(sample_count)::bigint AS sample_count,
    stats_merge(value_stats) AS value_stats,
    max(last_ingested_at) AS last_ingested_at
FROM hourly_features
GROUP BY tenant_id, asset_id, time_bucket(INTERVAL '1 day', hour)
WITH NO DATA;
CREATE INDEX daily_features_by_asset ON daily_features (tenant_id, asset_id, day);

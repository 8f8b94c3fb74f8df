-- Hourly statistics that tell what their readings cover, of those readings that the quality policy lets in.

-- The interval of energy whose unit is known, where all its readings so far have one: they did not say their own.
WITH steps AS (
    SELECT
        tenant_id, asset_id,
        extract(epoch FROM "timestamp" - lag("timestamp") OVER (PARTITION BY tenant_id, asset_id ORDER BY "timestamp")) AS step
    FROM timeseries_data
    JOIN assets USING (tenant_id, asset_id)
    WHERE assets.is_amount
),
counted AS (
    SELECT tenant_id, asset_id, step::integer AS step, count(*) AS steps FROM steps WHERE step >= 1
    GROUP BY tenant_id, asset_id, step::integer
),
ranked AS (
    SELECT
        *, sum(steps) OVER series AS total, min(step) OVER series AS shortest,
        row_number() OVER (PARTITION BY tenant_id, asset_id ORDER BY steps DESC) AS place
    FROM counted
    WINDOW series AS (PARTITION BY tenant_id, asset_id)
)
UPDATE assets SET interval_seconds = step
FROM ranked
WHERE ranked.tenant_id = assets.tenant_id AND ranked.asset_id = assets.asset_id
    AND place = 1 AND step = shortest AND steps >= 0.9 * total;

-- What features make of readings that are not good. Without a row: suspect ones are left out, estimated ones used.
CREATE TABLE quality_policies (
    tenant_id   text NOT NULL,
    quality     text NOT NULL CHECK (quality IN ('estimated', 'suspect')),
    in_features boolean NOT NULL,
    PRIMARY KEY (tenant_id, quality)
);

-- Set by a trigger from the policy.
ALTER TABLE timeseries_data ADD COLUMN in_features boolean NOT NULL DEFAULT true;
UPDATE timeseries_data SET in_features = false WHERE quality = 'suspect';

-- The aggregates are made anew: columns cannot be added to them. Views of others on them are not dropped silently.
DROP SCHEMA IF EXISTS tenant_wall CASCADE;
DROP VIEW IF EXISTS hourly_state;
DROP MATERIALIZED VIEW daily_features;
DROP MATERIALIZED VIEW hourly_features;

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
    max(ingested_at) AS last_ingested_at,
    -- time that its readings cover, and how many do not say it; the rest of its meaning is in hour_value()
    sum(interval_seconds) AS known_seconds,
    count(*) FILTER (WHERE interval_seconds IS NULL) AS unknown_count,
    sum(value * interval_seconds) AS value_seconds
FROM timeseries_data
WHERE in_features
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

-- Not at once: the next feature refresh materializes them, and computes from them. And from the oldest hour on: hours
-- below the newest materialized one that are not materialized themselves read as missing.
SELECT add_continuous_aggregate_policy(
    'hourly_features', start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '15 minutes',
    initial_start => now() + INTERVAL '1 hour'
);
SELECT add_continuous_aggregate_policy(
    'daily_features', start_offset => NULL, end_offset => INTERVAL '1 day', schedule_interval => INTERVAL '1 hour',
    initial_start => now() + INTERVAL '1 hour'
);
SELECT alter_job(job_id, config => config || '{"buckets_per_batch": 720, "refresh_newest_first": false}')
FROM timescaledb_information.jobs
WHERE proc_name = 'policy_refresh_continuous_aggregate' AND hypertable_name IN ('hourly_features', 'daily_features');

-- The next refresh computes every row anew; one that comes out the same stays as it is.
INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour)
SELECT 'readings', tenant_id, asset_id, first_hour, last_hour FROM asset_spans
WHERE isfinite(first_hour) AND isfinite(last_hour);

-- Every version of every feature row, so that what was known at a time can be read at any later time.

-- A version is what was known from created_timestamp until superseded_at; the present one has none. Values never
-- change. No retention: with the columnstore a version takes 20 to 30 bytes, and rows older than ai_features
-- keeps are read from here.
CREATE TABLE ai_feature_versions (
    hour               timestamptz NOT NULL,
    tenant_id          text NOT NULL,
    asset_id           text NOT NULL,
    historical_avg_24h double precision,
    historical_std_24h double precision,
    historical_min_24h double precision,
    historical_max_24h double precision,
    lag_1h             double precision,
    lag_24h            double precision,
    lag_168h           double precision,
    temperature        double precision,
    humidity           double precision,
    solar_irradiance   double precision,
    created_timestamp  timestamptz NOT NULL,
    superseded_at      timestamptz CHECK (superseded_at > created_timestamp),
    PRIMARY KEY (tenant_id, asset_id, hour, created_timestamp)
);
SELECT create_hypertable('ai_feature_versions', by_range('hour', INTERVAL '30 days'), create_default_indexes => false);
ALTER TABLE ai_feature_versions SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'tenant_id, asset_id',
    timescaledb.orderby = 'hour, created_timestamp'
);
CALL add_columnstore_policy('ai_feature_versions', after => INTERVAL '90 days');

INSERT INTO ai_feature_versions SELECT *, NULL FROM ai_features;

CREATE TYPE feature_key AS (tenant_id text, asset_id text, hour timestamptz);

-- Ranges are planned anew with every refresh, and computed in the order of their place.
CREATE SEQUENCE feature_plans;
ALTER TABLE feature_refresh_ranges
    ADD COLUMN plan_id    bigint NOT NULL DEFAULT 0,
    ADD COLUMN place      bigint NOT NULL DEFAULT 0,
    -- whether the aggregates were refreshed after the range had been planned
    ADD COLUMN aggregated boolean NOT NULL DEFAULT false;
CREATE INDEX feature_refresh_ranges_due ON feature_refresh_ranges (place) WHERE aggregated;

-- Refreshes that computed something, for whoever follows them.
CREATE TABLE feature_refreshes (
    refresh_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz NOT NULL,
    rows_computed bigint NOT NULL,
    rows_changed  bigint NOT NULL
);

-- Compiling a query takes the just-in-time compiler seconds; the largest one here runs for less.
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$;

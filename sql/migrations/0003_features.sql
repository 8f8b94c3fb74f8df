-- Computed features and what keeps them incremental.

-- One row a tenant, asset and hour; `hour` is the row's event timestamp: only readings before it count.
CREATE TABLE ai_features (
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
    created_timestamp  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, asset_id, hour)
);
SELECT create_hypertable('ai_features', by_range('hour', INTERVAL '7 days'), create_default_indexes => false);

-- The hour axis of the feature views: a join with it is an index range scan, where generate_series
-- would have to produce an asset's whole history for one day. plan_feature_refresh() extends it.
CREATE TABLE feature_hours (hour timestamptz PRIMARY KEY);
INSERT INTO feature_hours
SELECT generate_series(TIMESTAMPTZ '2015-01-01 00:00+00', TIMESTAMPTZ '2039-12-31 23:00+00', INTERVAL '1 hour');
ANALYZE feature_hours;

-- First and last hour with readings; kept by triggers on timeseries_data.
-- Feature rows in [stored_from, stored_through] are in ai_features, as far as its retention goes.
CREATE TABLE asset_spans (
    tenant_id      text NOT NULL,
    asset_id       text NOT NULL,
    first_hour     timestamptz NOT NULL,
    last_hour      timestamptz NOT NULL,
    stored_from    timestamptz,
    stored_through timestamptz,
    PRIMARY KEY (tenant_id, asset_id)
);

-- What was written since the last refresh, as ranges of hours; filled by triggers in the writer's own
-- transaction, so a change is queued exactly when it is committed.
CREATE TABLE feature_changes (
    change_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source     text NOT NULL CHECK (source IN ('readings', 'deletion', 'weather')),
    tenant_id  text NOT NULL,
    asset_id   text NOT NULL,
    first_hour timestamptz NOT NULL,
    last_hour  timestamptz NOT NULL
);

-- Feature rows a refresh has still to compute: hours in [first_hour, end_hour).
CREATE TABLE feature_refresh_ranges (
    tenant_id  text NOT NULL,
    asset_id   text NOT NULL,
    first_hour timestamptz NOT NULL,
    end_hour   timestamptz NOT NULL CHECK (end_hour > first_hour),
    PRIMARY KEY (tenant_id, asset_id, first_hour)
);

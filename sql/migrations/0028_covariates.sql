-- External series (prices, tariffs, grid load, forecasts of others) beside the weather, and the columns of an asset that
-- say whose values it uses.

ALTER TABLE assets
    ADD COLUMN price_zone      text CHECK (price_zone <> ''),
    -- of a portfolio, balancing group or site
    ADD COLUMN "group"         text CHECK ("group" <> ''),
    ADD COLUMN weather_station text CHECK (weather_station <> '');
CREATE INDEX assets_by_group ON assets (tenant_id, "group") WHERE "group" IS NOT NULL;

-- What the values of a series are.
CREATE TABLE covariate_series (
    tenant_id  text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    series     text NOT NULL CHECK (series ~ '^[a-z][a-z0-9_]{0,47}$' AND series <> 'value'),
    unit       text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, series)
);

-- Several issues of one time stay, each with the time since which it could be read.
CREATE TABLE covariates (
    "timestamp"  timestamptz NOT NULL CHECK (isfinite("timestamp")),
    tenant_id    text NOT NULL,
    series       text NOT NULL,
    -- a price zone, group, weather station or asset; empty: of all assets of the tenant
    zone         text NOT NULL DEFAULT '',
    available_at timestamptz NOT NULL,
    value        double precision NOT NULL CHECK (value > '-infinity' AND value < 'infinity'),
    ingested_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, series, zone, "timestamp", available_at)
);
SELECT create_hypertable('covariates', by_range('timestamp', INTERVAL '30 days'), create_default_indexes => false);

-- A change of a series is of no asset, but of those that use it; so is one of the members of a group.
ALTER TABLE feature_changes ALTER COLUMN asset_id DROP NOT NULL;
ALTER TABLE feature_changes ADD COLUMN series text, ADD COLUMN zone text;
ALTER TABLE feature_changes DROP CONSTRAINT feature_changes_source_check;
ALTER TABLE feature_changes ADD CONSTRAINT feature_changes_source_check CHECK (
    source IN ('readings', 'deletion', 'weather', 'periods', 'asset') AND asset_id IS NOT NULL
    OR source = 'series' AND series IS NOT NULL AND zone IS NOT NULL
    OR source = 'group' AND zone IS NOT NULL
);
-- or a column as declarations have it: series@key, or value@group
ALTER TABLE declared_reaches DROP CONSTRAINT declared_reaches_source_check;
ALTER TABLE declared_reaches ADD CONSTRAINT declared_reaches_source_check
    CHECK (source IN ('readings', 'weather') OR source LIKE '_%@_%');

ALTER TABLE quarantined_rows DROP CONSTRAINT quarantined_rows_table_name_check;
ALTER TABLE quarantined_rows ADD CONSTRAINT quarantined_rows_table_name_check
    CHECK (table_name IN ('timeseries_data', 'weather_features', 'covariates'));

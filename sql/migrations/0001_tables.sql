-- Tables the users write to and the table of computed features.

CREATE TABLE assets (
    tenant_id        text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    asset_id         text NOT NULL CHECK (asset_id <> ''),
    kind             text NOT NULL DEFAULT 'unknown',
    unit             text,
    -- the comparison with NULL never matters: an unknown zone raises
    timezone         text NOT NULL DEFAULT 'UTC' CHECK (('epoch'::timestamptz AT TIME ZONE timezone) IS NOT NULL),
    latitude         double precision CHECK (latitude BETWEEN -90 AND 90),
    longitude        double precision CHECK (longitude BETWEEN -180 AND 180),
    capacity         double precision,
    -- whose weather_features rows this asset uses; NULL: its own
    weather_asset_id text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, asset_id)
);

CREATE TABLE timeseries_data (
    "timestamp" timestamptz NOT NULL,
    tenant_id   text NOT NULL,
    asset_id    text NOT NULL,
    value       double precision NOT NULL,
    quality     text NOT NULL DEFAULT 'good' CHECK (quality IN ('good', 'estimated', 'suspect')),
    ingested_at timestamptz NOT NULL DEFAULT now(),
    -- the key's order serves every read: one asset, a range of time
    PRIMARY KEY (tenant_id, asset_id, "timestamp")
);
SELECT create_hypertable('timeseries_data', by_range('timestamp', INTERVAL '30 days'), create_default_indexes => false);

CREATE TABLE weather_features (
    "timestamp"      timestamptz NOT NULL,
    tenant_id        text NOT NULL,
    asset_id         text NOT NULL,
    -- when the row could first be read: a forecast's issue time, an observation's arrival
    available_at     timestamptz NOT NULL,
    temperature      double precision,
    humidity         double precision CHECK (humidity BETWEEN 0 AND 100),
    wind_speed       double precision CHECK (wind_speed >= 0),
    wind_direction   double precision CHECK (wind_direction BETWEEN 0 AND 360),
    solar_irradiance double precision CHECK (solar_irradiance >= 0),
    cloud_cover      double precision CHECK (cloud_cover BETWEEN 0 AND 100),
    precipitation    double precision CHECK (precipitation >= 0),
    pressure         double precision CHECK (pressure > 0),
    ingested_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, asset_id, "timestamp", available_at)
);
SELECT create_hypertable('weather_features', by_range('timestamp', INTERVAL '30 days'), create_default_indexes => false);

CREATE TABLE feature_exports (
    export_id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id       text NOT NULL,
    feature_set     text NOT NULL,
    start_time      timestamptz NOT NULL,
    end_time        timestamptz NOT NULL CHECK (end_time > start_time),
    asset_ids       text[],
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    row_count       bigint,
    file_size_bytes bigint,
    sha256          text,
    storage_path    text,
    error           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    completed_at    timestamptz
);
CREATE INDEX feature_exports_by_tenant ON feature_exports (tenant_id, created_at DESC);

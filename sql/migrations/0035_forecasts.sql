-- The forecast log: what was forecast when, by which version of which model, with what was known. Rows are added and
-- removed as a whole, never changed.

CREATE TABLE forecast_runs (
    run_id           uuid PRIMARY KEY,
    tenant_id        text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    model            text NOT NULL CHECK (model <> ''),
    -- MLflow's number of the version, its semantic one, and the SHA-256 of the manifest of its files; none: not registered
    version          integer CHECK (version > 0),
    semantic_version text,
    manifest_sha256  text CHECK (manifest_sha256 ~ '^[0-9a-f]{64}$'),
    role             text NOT NULL CHECK (role IN ('live', 'shadow', 'replay', 'backtest')),
    issued_at        timestamptz NOT NULL CHECK (isfinite(issued_at)),
    -- features are those that were known then
    known_at         timestamptz NOT NULL CHECK (isfinite(known_at)),
    -- written last, right before the run can be read
    recorded_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- forecasts are of the steps from issued_at on, to the end of the horizon
    step             interval NOT NULL CHECK (step > INTERVAL '0'),
    horizon          interval NOT NULL CHECK (horizon >= step),
    -- complete: every step of every asset has a value; failed: none has
    status           text NOT NULL CHECK (status IN ('complete', 'partial', 'failed')),
    assets           text[] NOT NULL CHECK (cardinality(assets) > 0),
    -- of the values; none: nobody said it
    unit             text,
    -- what else was answered, as JSON
    details          jsonb NOT NULL DEFAULT '{}',
    CHECK (role IN ('replay', 'backtest') OR (version IS NOT NULL AND manifest_sha256 IS NOT NULL))
);
CREATE INDEX forecast_runs_by_tenant ON forecast_runs (tenant_id, recorded_at DESC);
CREATE INDEX forecast_runs_by_asset ON forecast_runs USING gin (assets);

CREATE TABLE forecasts (
    -- start of the step that is forecast
    target_time timestamptz NOT NULL,
    tenant_id   text NOT NULL,
    asset_id    text NOT NULL,
    run_id      uuid NOT NULL,
    issued_at   timestamptz NOT NULL,
    -- mean power or flow over the step; none: features were missing
    value       double precision CHECK (value > '-infinity' AND value < 'infinity'),
    q10         double precision CHECK (q10 > '-infinity' AND q10 < 'infinity'),
    q50         double precision CHECK (q50 > '-infinity' AND q50 < 'infinity'),
    q90         double precision CHECK (q90 > '-infinity' AND q90 < 'infinity'),
    -- degraded: some features were missing or older than usual
    status      text NOT NULL CHECK (status IN ('ok', 'degraded', 'missing')),
    CHECK ((value IS NULL) = (status = 'missing')),
    CHECK (q10 <= q50 AND q50 <= q90)
);
SELECT create_hypertable('forecasts', by_range('target_time', INTERVAL '7 days'), create_default_indexes => false);
CREATE INDEX forecasts_by_asset ON forecasts (tenant_id, asset_id, target_time, issued_at);
ALTER TABLE forecasts SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'tenant_id, asset_id',
    -- what is the same for a run takes next to nothing
    timescaledb.orderby = 'issued_at, target_time'
);
CALL add_columnstore_policy('forecasts', after => INTERVAL '1 day');

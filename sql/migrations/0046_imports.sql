-- Where readings come from: a row for each file that was ingested, and which hours of which assets it wrote when.

CREATE TABLE imports (
    import_id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id   text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    table_name  text NOT NULL CHECK (table_name IN ('timeseries_data', 'weather_features', 'covariates')),
    -- without its folder, which is nobody else's business
    file_name   text NOT NULL CHECK (file_name NOT LIKE '%/%'),
    -- of its bytes
    sha256      text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- none: under way, or ended by an error
    finished_at timestamptz,
    -- rows that were inserted or updated
    row_count   bigint
);
CREATE INDEX imports_by_tenant ON imports (tenant_id, started_at DESC);

-- A row for each statement that wrote and each set of hours in it; its rows have written_at as their ingested_at, until
-- they are written again.
CREATE TABLE import_hours (
    import_id  uuid NOT NULL REFERENCES imports ON DELETE CASCADE,
    tenant_id  text NOT NULL,
    assets     text[] NOT NULL,
    hours      tstzmultirange NOT NULL,
    written_at timestamptz NOT NULL
);
CREATE INDEX import_hours_by_time ON import_hours (tenant_id, written_at);
CREATE INDEX import_hours_by_asset ON import_hours USING gin (assets);
CREATE INDEX import_hours_by_import ON import_hours (import_id);

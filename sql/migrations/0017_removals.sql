-- Readings and assets that were removed, by whom and why; and which times of readings are taken.

-- One row when a removal begins and one when it has ended; of one that was killed, the first alone.
CREATE TABLE removals (
    removal_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('readings', 'asset')),
    step       text NOT NULL CHECK (step IN ('started', 'finished')),
    -- NULL: of all assets
    asset_ids  text[],
    start_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    reason     text NOT NULL CHECK (reason <> ''),
    removed_by text NOT NULL,
    -- rows by table: about to go, or gone
    counts     jsonb NOT NULL,
    noted_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX removals_by_tenant ON removals (tenant_id, removal_id);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;
CREATE TRIGGER removals_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON removals
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE reading_bounds (
    tenant_id text PRIMARY KEY,
    earliest  timestamptz NOT NULL CHECK (isfinite(earliest)),
    -- how far ahead of the clock
    ahead     interval NOT NULL CHECK (ahead >= INTERVAL '0')
);

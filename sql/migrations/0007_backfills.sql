-- Files a backfill has finished, so that a resumed one goes on with the next. Identified by what is in them and
-- how they were read, never by where they lie.
CREATE TABLE backfill_files (
    tenant_id   text NOT NULL,
    fingerprint text NOT NULL,
    file_name   text NOT NULL,
    row_count   bigint NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, fingerprint)
);

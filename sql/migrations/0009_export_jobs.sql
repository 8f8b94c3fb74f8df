-- What makes an export job durable: what was asked for, how far it is, who works on it and until when.

ALTER TABLE feature_exports
    -- below the tenant's folder of EXPORT_STORAGE_PATH
    ADD COLUMN output_path      text,
    ADD COLUMN partition_by     text CHECK (partition_by = 'month'),
    ADD COLUMN idempotency_key  text,
    -- SHA-256 of the request; equal requests have equal ones
    ADD COLUMN request_hash     text,
    ADD COLUMN requested_by     text,
    ADD COLUMN progress         double precision NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    ADD COLUMN cancel_requested boolean NOT NULL DEFAULT false,
    -- times a worker has taken it up
    ADD COLUMN attempts         integer NOT NULL DEFAULT 0,
    -- of a running job: who works on it, and until when nobody else may; of a pending one: not to be taken up before
    ADD COLUMN worker           text,
    ADD COLUMN lease_until      timestamptz,
    -- of the feature service as the file has it
    ADD COLUMN service_version  text;

UPDATE feature_exports SET output_path = export_id || '.parquet', request_hash = export_id::text;
ALTER TABLE feature_exports
    ALTER COLUMN output_path SET NOT NULL,
    ALTER COLUMN request_hash SET NOT NULL;

CREATE UNIQUE INDEX feature_exports_by_key ON feature_exports (tenant_id, idempotency_key);
CREATE UNIQUE INDEX feature_exports_by_path ON feature_exports (tenant_id, output_path) WHERE status <> 'failed';
CREATE INDEX feature_exports_unfinished ON feature_exports (created_at) WHERE status IN ('pending', 'running');

-- Exports say how many of their rows were computed as they were read.
CREATE OR REPLACE VIEW feature_exports WITH (security_invoker) AS
SELECT
    job_id AS export_id,
    tenant_id,
    arguments ->> 'feature_set' AS feature_set,
    (arguments ->> 'start_time')::timestamptz AS start_time,
    (arguments ->> 'end_time')::timestamptz AS end_time,
    CASE WHEN arguments ? 'asset_ids' THEN ARRAY(SELECT jsonb_array_elements_text(arguments -> 'asset_ids')) END AS asset_ids,
    status,
    (result ->> 'row_count')::bigint AS row_count,
    (result ->> 'file_size_bytes')::bigint AS file_size_bytes,
    result ->> 'sha256' AS sha256,
    result ->> 'storage_path' AS storage_path,
    error,
    created_at,
    started_at,
    completed_at,
    arguments ->> 'output_path' AS output_path,
    arguments ->> 'partition_by' AS partition_by,
    idempotency_key,
    arguments ->> 'request_hash' AS request_hash,
    created_by AS requested_by,
    progress,
    cancel_requested,
    attempts,
    -- cannot be updated: workers of an earlier release acquire no more jobs, which they could not end
    holder || '' AS worker,
    lease_until,
    result ->> 'service_version' AS service_version,
    fence,
    clean_after,
    (result ->> 'expired_at')::timestamptz AS expired_at,
    result -> 'file_sha256' AS file_sha256,
    jsonb_array_length(arguments -> 'asset_ids') AS asset_count,
    (result ->> 'unstored_rows')::bigint AS unstored_rows
FROM jobs
WHERE kind = 'export';

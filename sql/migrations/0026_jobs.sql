-- Durable jobs of every kind. An export is one of them; `feature_exports` shows those as before.

-- what others commit meanwhile would be lost
LOCK TABLE feature_exports IN ACCESS EXCLUSIVE MODE;

-- What a view cannot have is named, and nothing is changed.
DO $$
DECLARE
    lost text;
BEGIN
    SELECT string_agg(what, E'\n') INTO lost FROM (
        SELECT format('trigger %s on table feature_exports', tgname) AS what
        FROM pg_trigger WHERE tgrelid = 'feature_exports'::regclass AND NOT tgisinternal
        UNION ALL
        SELECT format('right to single columns of table feature_exports (%s)', attname)
        FROM pg_attribute WHERE attrelid = 'feature_exports'::regclass AND cardinality(attacl) > 0
    ) AS found;
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'table feature_exports becomes a view' USING ERRCODE = 'feature_not_supported', DETAIL = lost;
    END IF;
END
$$;

CREATE TABLE jobs (
    job_id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- which task does it, such as `export`
    kind             text NOT NULL,
    tenant_id        text NOT NULL,
    arguments        jsonb NOT NULL DEFAULT '{}',
    status           text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    -- fencing token: grows by one with every acquisition and never falls, as `attempts` does for those that do not count
    fence            bigint NOT NULL DEFAULT 0,
    -- of a running job: which worker has it, and until when no other may acquire it
    holder           text,
    lease_until      timestamptz,
    -- of a pending job: not to be acquired before
    next_at          timestamptz NOT NULL DEFAULT now(),
    attempts         integer NOT NULL DEFAULT 0,
    progress         double precision NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    cancel_requested boolean NOT NULL DEFAULT false,
    result           jsonb,
    error            text,
    -- at most one unfinished job of a tenant and kind has it: the path of an export, the model of a training
    queueing_lock    text,
    -- at most one job of a tenant and kind ever has it
    idempotency_key  text,
    created_by       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    completed_at     timestamptz,
    -- of an ended job that may have left something behind: when to remove it, or to try again
    clean_after      timestamptz
);

INSERT INTO jobs (
    job_id, kind, tenant_id, arguments, status, fence, holder, lease_until, next_at, attempts, progress, cancel_requested,
    result, error, queueing_lock, idempotency_key, created_by, created_at, started_at, completed_at, clean_after
)
SELECT
    export_id, 'export', tenant_id,
    jsonb_strip_nulls(jsonb_build_object(
        'feature_set', feature_set, 'start_time', start_time, 'end_time', end_time, 'asset_ids', to_jsonb(asset_ids),
        'output_path', output_path, 'partition_by', partition_by, 'request_hash', request_hash
    )),
    status, fence, worker,
    CASE status WHEN 'running' THEN lease_until END,
    CASE WHEN status = 'pending' AND lease_until IS NOT NULL THEN lease_until ELSE created_at END,
    attempts, progress, cancel_requested,
    CASE status WHEN 'completed' THEN jsonb_strip_nulls(jsonb_build_object(
        'row_count', row_count, 'file_size_bytes', file_size_bytes, 'sha256', sha256, 'storage_path', storage_path,
        'service_version', service_version, 'file_sha256', file_sha256, 'expired_at', expired_at
    )) END,
    error, output_path, idempotency_key, requested_by, created_at, started_at, completed_at, clean_after
FROM feature_exports;

CREATE INDEX jobs_by_tenant ON jobs (tenant_id, kind, created_at DESC);
CREATE INDEX jobs_by_status ON jobs (kind, status);
CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE status IN ('pending', 'running');
-- when a tenant had its last turn
CREATE INDEX jobs_by_turn ON jobs (tenant_id, started_at);
CREATE UNIQUE INDEX jobs_by_queueing_lock ON jobs (tenant_id, kind, queueing_lock) WHERE status IN ('pending', 'running');
CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant_id, kind, idempotency_key);
CREATE INDEX jobs_to_clean ON jobs (clean_after) WHERE clean_after IS NOT NULL;
CREATE INDEX jobs_by_path ON jobs (tenant_id, kind, (arguments ->> 'output_path'));
CREATE INDEX jobs_kept ON jobs (kind, completed_at) WHERE status = 'completed' AND NOT result ? 'expired_at';
-- 070_tenant_wall.sql adds the policy; until then nobody but the owner sees a row
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;

-- A tenant's own view of it; 070_tenant_wall.sql makes it anew in the same call of migrate.
DROP VIEW IF EXISTS tenant_wall.feature_exports;
-- What others may do with the table they may do with the view, and for that with the rows behind it.
SELECT set_config('ai_hub.rights', coalesce(relacl, '{}')::text, true) FROM pg_class WHERE oid = 'feature_exports'::regclass;
DROP TABLE feature_exports;

-- with the rights of whoever reads it, so that row-level security of jobs holds, as that of the table did
CREATE VIEW feature_exports WITH (security_invoker) AS
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
    jsonb_array_length(arguments -> 'asset_ids') AS asset_count
FROM jobs
WHERE kind = 'export';

DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT
            privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee,
            CASE WHEN is_grantable THEN 'WITH GRANT OPTION' ELSE '' END AS option
        FROM aclexplode(nullif(current_setting('ai_hub.rights'), '{}')::aclitem[])
        WHERE grantee <> (SELECT relowner FROM pg_class WHERE oid = 'feature_exports'::regclass)
    LOOP
        EXECUTE format('GRANT %s ON feature_exports TO %s %s', granted.privilege_type, granted.grantee, granted.option);
        IF granted.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') THEN
            EXECUTE format('GRANT %s ON jobs TO %s %s', granted.privilege_type, granted.grantee, granted.option);
        END IF;
    END LOOP;
END
$$;

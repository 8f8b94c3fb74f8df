-- What becomes of the job of a retraining becomes of its request, in the same transaction. One that is tried again while
-- another request is open violates retrain_requests_open, so it stays failed.
CREATE OR REPLACE FUNCTION note_retraining() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE public.retrain_requests SET
        status = CASE WHEN NEW.status IN ('completed', 'failed') THEN NEW.status ELSE 'approved' END,
        ended_at = NEW.completed_at,
        error = NEW.error,
        new_version = (NEW.result ->> 'version')::integer,
        new_semantic_version = NEW.result ->> 'semantic_version'
    WHERE request_id = NEW.job_id AND tenant_id = NEW.tenant_id;
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION note_retraining FROM PUBLIC;
CREATE OR REPLACE TRIGGER retraining_is_noted AFTER UPDATE ON jobs
FOR EACH ROW WHEN (NEW.kind = 'retrain' AND OLD.status <> NEW.status) EXECUTE FUNCTION note_retraining();

-- The forecast log (migration 0035): its rows stay as they were written, until retention removes them.

CREATE OR REPLACE FUNCTION refuse_changed_forecasts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME
        USING ERRCODE = 'feature_not_supported', HINT = 'Write another run.';
END
$$;
CREATE OR REPLACE TRIGGER forecasts_are_not_changed BEFORE UPDATE ON forecasts
FOR EACH ROW EXECUTE FUNCTION refuse_changed_forecasts();
CREATE OR REPLACE TRIGGER forecast_runs_are_not_changed BEFORE UPDATE ON forecast_runs
FOR EACH ROW EXECUTE FUNCTION refuse_changed_forecasts();

-- Removes forecasts of targets that are older than config's days, in whole chunks, and the runs that have none left.
CREATE OR REPLACE PROCEDURE remove_old_forecasts(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz := now() - (config ->> 'days')::integer * INTERVAL '1 day';
BEGIN
    IF oldest IS NOT NULL THEN
        PERFORM drop_chunks('public.forecasts', older_than => oldest);
        SELECT least(oldest, min(range_start)) INTO oldest
        FROM timescaledb_information.chunks WHERE hypertable_schema = 'public' AND hypertable_name = 'forecasts';
        DELETE FROM public.forecast_runs WHERE issued_at + horizon <= oldest;
    END IF;
END
$$;
-- `ai-hub migrate` sets its days (FORECAST_RETENTION_DAYS)
SELECT add_job('remove_old_forecasts', INTERVAL '1 day', config => '{"days": null}')
WHERE NOT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_name = 'remove_old_forecasts');

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

-- Of hours to come the readings will say it.
CREATE OR REPLACE FUNCTION note_scores_of_run() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.forecast_scores_due (tenant_id, asset_id, hours)
    SELECT NEW.tenant_id, unnest(NEW.assets), tstzrange(NEW.issued_at, least(NEW.issued_at + NEW.horizon, now()))
    WHERE NEW.issued_at < now();
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION note_scores_of_run FROM PUBLIC;
CREATE OR REPLACE TRIGGER scores_are_due AFTER INSERT ON forecast_runs
FOR EACH ROW EXECUTE FUNCTION note_scores_of_run();

-- One session at a time computes scores.
CREATE OR REPLACE FUNCTION forecast_scores_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 7236451184 $$;

-- Computes scores of about so many due ranges, of a week at most each, and forgets these; how many there were.
CREATE OR REPLACE FUNCTION score_forecasts(max_ranges integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    until  timestamptz := time_bucket(INTERVAL '1 hour', now());
    oldest timestamptz;
    taken  forecast_scores_due[];
    part   record;
BEGIN
    IF NOT EXISTS (SELECT FROM forecast_scores_due WHERE plan_id IS NULL AND lower(hours) < until) THEN
        RETURN 0;
    END IF;
    -- a reading may be of any year: of hours without a forecast nothing is due
    SELECT coalesce(min(range_start), 'infinity') INTO oldest
    FROM timescaledb_information.chunks WHERE hypertable_schema = 'public' AND hypertable_name = 'forecasts';
    WITH due AS (
        DELETE FROM forecast_scores_due WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM forecast_scores_due WHERE plan_id IS NULL AND lower(hours) < until
            ORDER BY tenant_id, asset_id, lower(hours) LIMIT max_ranges
        ))
        RETURNING tenant_id, asset_id, hours, least(until, greatest(oldest, lower(hours)) + INTERVAL '7 days') AS taken_until
    ),
    later AS (  -- the hour under way has not been measured yet
        INSERT INTO forecast_scores_due (tenant_id, asset_id, hours)
        SELECT tenant_id, asset_id, tstzrange(taken_until, upper(hours)) FROM due WHERE upper(hours) > taken_until
    )
    SELECT array_agg((tenant_id, asset_id, hours * tstzrange(least(oldest, taken_until), taken_until), NULL)::forecast_scores_due) INTO taken FROM due;
    FOR part IN
        SELECT tenant_id, first_day, end_day, array_agg(asset_id) AS assets
        FROM (
            SELECT tenant_id, asset_id, lower(span) AS first_day, upper(span) AS end_day
            FROM (
                SELECT tenant_id, asset_id, range_agg(daterange(
                    (lower(hours) AT TIME ZONE 'UTC')::date, (upper(hours) AT TIME ZONE 'UTC' - INTERVAL '1 microsecond')::date, '[]'
                )) AS days
                FROM unnest(taken) WHERE NOT isempty(hours) GROUP BY tenant_id, asset_id
            ) AS merged, unnest(days) AS span
        ) AS spans
        GROUP BY tenant_id, first_day, end_day ORDER BY tenant_id, first_day
    LOOP
        BEGIN
            PERFORM score_days(part.tenant_id, part.assets, part.first_day, part.end_day);
        EXCEPTION WHEN data_exception THEN  -- of one tenant, whom the others need not wait for
            RAISE WARNING 'scores of tenant % from % on are not kept: %', part.tenant_id, part.first_day, SQLERRM;
        END;
    END LOOP;
    RETURN coalesce(cardinality(taken), 0);
END
$$;

-- Forecasts that count, by hour in [start, until), of some assets.
-- Forecasts in a unit that is not the asset's cannot be compared. A live or shadow one that was made long after its time of
-- issue knew more than it says, and so may the second live one of an issue; of backtests the newest counts. Steps of less
-- than an hour count by the hour that they make up.
-- A plan for each call, as times leave out chunks. Of forecasts and runs that were written since the last ANALYZE the planner
-- expects one row, and would compare each forecast with each run: OFFSET 0 has it look up the run of each, and ROWS is for callers.
DROP FUNCTION IF EXISTS counted_forecasts(text, text[], timestamptz, timestamptz);
CREATE FUNCTION counted_forecasts(tenant text, counted text[], start timestamptz, until timestamptz)
RETURNS TABLE (
    asset_id text, hour timestamptz, model text, version integer, semantic_version text, role text, unit text, issued_at timestamptz,
    value double precision, q10 double precision, q50 double precision, q90 double precision
)
LANGUAGE plpgsql STABLE ROWS 10000 SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT
        asset_id, time_bucket(INTERVAL '1 hour', target_time) AS hour, model, version, semantic_version, role, unit, issued_at, avg(value),
        -- quantiles of parts of an hour are none of the hour
        CASE WHEN step = INTERVAL '1 hour' THEN min(q10) END,
        CASE WHEN step = INTERVAL '1 hour' THEN min(q50) END,
        CASE WHEN step = INTERVAL '1 hour' THEN min(q90) END
    FROM (
        SELECT DISTINCT ON (forecasts.asset_id, target_time, model, role, forecasts.issued_at, CASE WHEN role <> 'live' THEN version END)
            forecasts.asset_id, target_time, model, coalesce(version, 0) AS version, semantic_version, role,
            coalesce(assets.feature_unit, '') AS unit, forecasts.issued_at, step, value, q10, q50, q90
        FROM forecasts
        CROSS JOIN LATERAL (SELECT * FROM forecast_runs WHERE run_id = forecasts.run_id OFFSET 0) AS runs
        JOIN assets ON assets.tenant_id = forecasts.tenant_id AND assets.asset_id = forecasts.asset_id
        WHERE forecasts.tenant_id = tenant AND runs.tenant_id = tenant AND forecasts.asset_id = ANY (counted)
            AND target_time >= start AND target_time < until
            AND value IS NOT NULL AND step <= INTERVAL '1 hour' AND runs.unit IS NOT DISTINCT FROM assets.feature_unit
            AND (role NOT IN ('live', 'shadow') OR recorded_at < forecasts.issued_at + 2 * step)
        ORDER BY forecasts.asset_id, target_time, model, role, forecasts.issued_at, CASE WHEN role <> 'live' THEN version END,
            CASE WHEN role = 'backtest' THEN recorded_at END DESC, recorded_at, runs.run_id
    ) AS issued
    GROUP BY asset_id, 2, model, version, semantic_version, role, unit, issued_at, step
    HAVING count(*) * step = INTERVAL '1 hour';
END
$$;

-- How many days before a target the last known one is at most: of a forecast seven days ahead.
CREATE OR REPLACE FUNCTION naive_days(available_after interval) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT ceil(extract(epoch FROM INTERVAL '169 hours' + available_after) / 86400)::integer
$$;

-- Computes scores of some assets and days (UTC) in [first_day, end_day). Scores of which no forecast is left stay as they are.
-- The naive forecasts are those of `ai-hub backtest`: the value at the same hour of the last day, and week, that was known when
-- the forecast was issued; of one that is a gap the day or week before, up to three times. Unlike there, a value is known by
-- available_after of its asset alone, whatever available_at of its readings says.
CREATE OR REPLACE FUNCTION score_days(tenant text, scored text[], first_day date, end_day date) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$  -- times leave out chunks
DECLARE
    start timestamptz := first_day::timestamp AT TIME ZONE 'UTC';
    until timestamptz := least(end_day::timestamp AT TIME ZONE 'UTC', time_bucket(INTERVAL '1 hour', now()));
    days  integer;
    since timestamptz;
BEGIN
    WITH present AS MATERIALIZED (
        SELECT DISTINCT
            asset_id, (target_time AT TIME ZONE 'UTC')::date AS day, model, role,
            CASE WHEN role <> 'live' THEN coalesce(version, 0) END AS version
        FROM forecasts
        CROSS JOIN LATERAL (SELECT * FROM forecast_runs WHERE run_id = forecasts.run_id OFFSET 0) AS runs
        WHERE forecasts.tenant_id = tenant AND runs.tenant_id = tenant AND asset_id = ANY (scored)
            AND target_time >= start AND target_time < until
    )
    DELETE FROM forecast_scores WHERE ctid = ANY (ARRAY(
        SELECT scores.ctid
        FROM present
        JOIN assets ON assets.tenant_id = tenant AND assets.asset_id = present.asset_id
        CROSS JOIN LATERAL (
            SELECT ctid, version, unit FROM forecast_scores AS kept
            WHERE kept.tenant_id = tenant AND kept.asset_id = present.asset_id AND kept.day = present.day
                AND kept.model = present.model AND kept.role = present.role
            OFFSET 0
        ) AS scores
        WHERE scores.version = coalesce(present.version, scores.version) AND scores.unit = coalesce(assets.feature_unit, '')
    ));
    SELECT naive_days(max(available_after)) INTO days FROM assets WHERE tenant_id = tenant AND asset_id = ANY (scored);
    since := start - (ceil(days / 7.0) + 3) * INTERVAL '168 hours';
    INSERT INTO forecast_scores (
        tenant_id, asset_id, day, model, version, role, unit, lead_hours, hours, error, absolute, squared, actual,
        banded, covered, width, quantiles, pinball, compared, compared_absolute, naive_day, naive_week
    )
    WITH history AS (  -- by hour of the day, values of all days
        SELECT asset_id, extract(epoch FROM hour - since)::integer / 3600 % 24 AS hour_of_day, array_agg(value ORDER BY hour) AS by_day
        FROM (
            SELECT asset_id, hour, max(value) AS value
            FROM (
                SELECT asset_id, hour, value FROM hourly_values
                WHERE tenant_id = tenant AND asset_id = ANY (scored) AND hour >= since AND hour < until
                UNION ALL
                SELECT asset_id, hour, NULL
                FROM unnest(scored) AS asset_id CROSS JOIN generate_series(since, until - INTERVAL '1 hour', INTERVAL '1 hour') AS hour
            ) AS found
            GROUP BY asset_id, hour
        ) AS every_hour
        GROUP BY asset_id, hour_of_day
    ),
    measured AS MATERIALIZED (  -- naive forecasts by how many days, or weeks, ago the last known value was
        SELECT
            asset_id, since + (24 * (place - 1) + hour_of_day) * INTERVAL '1 hour' AS hour, by_day[place] AS actual,
            ARRAY(
                SELECT coalesce(by_day[place - ago], by_day[place - ago - 1], by_day[place - ago - 2], by_day[place - ago - 3])
                FROM generate_series(1, days) AS ago ORDER BY ago
            ) AS last_day,
            ARRAY(
                SELECT coalesce(by_day[place - ago], by_day[place - ago - 7], by_day[place - ago - 14], by_day[place - ago - 21])
                FROM generate_series(7, days + 6, 7) AS ago ORDER BY ago
            ) AS last_week
        FROM history
        CROSS JOIN generate_series(extract(epoch FROM start - since)::integer / 86400 + 1, cardinality(by_day)) AS place
        WHERE by_day[place] IS NOT NULL
    ),
    compared AS (
        SELECT
            forecast.*, actual,
            last_day[greatest((behind + 86399) / 86400, 1)] AS last_day, last_week[greatest((behind + 604799) / 604800, 1)] AS last_week
        FROM counted_forecasts(tenant, scored, start, until) AS forecast
        JOIN assets USING (asset_id)
        JOIN measured USING (asset_id, hour)
        CROSS JOIN LATERAL (
            SELECT ceil(date_part('epoch', hour + INTERVAL '1 hour' + available_after - issued_at))::integer AS behind
        ) AS distance
        WHERE assets.tenant_id = tenant
    )
    SELECT
        tenant, asset_id, (hour AT TIME ZONE 'UTC')::date, model, version, role, unit,
        floor(extract(epoch FROM hour - issued_at) / 21600)::integer * 6,
        count(*), sum(value - actual), sum(abs(value - actual)), sum((value - actual) ^ 2), sum(abs(actual)),
        count(*) FILTER (WHERE q10 < q90 OR actual <> q10),
        count(*) FILTER (WHERE q10 < q90 AND actual BETWEEN q10 AND q90),
        coalesce(sum(q90 - q10) FILTER (WHERE q10 < q90 OR actual <> q10), 0),
        count(q10) + count(q50) + count(q90),
        coalesce(sum(greatest(0.1 * (actual - q10), -0.9 * (actual - q10))), 0)
            + coalesce(sum(greatest(0.5 * (actual - q50), -0.5 * (actual - q50))), 0)
            + coalesce(sum(greatest(0.9 * (actual - q90), -0.1 * (actual - q90))), 0),
        count(last_day + last_week),
        coalesce(sum(abs(value - actual)) FILTER (WHERE last_day + last_week IS NOT NULL), 0),
        coalesce(sum(abs(last_day - actual)) FILTER (WHERE last_week IS NOT NULL), 0),
        coalesce(sum(abs(last_week - actual)) FILTER (WHERE last_day IS NOT NULL), 0)
    FROM compared
    GROUP BY asset_id, 3, model, version, role, unit, 8;
END
$$;

-- Another naive forecast is known at each issue.
CREATE OR REPLACE FUNCTION note_scores_of_asset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO forecast_scores_due (tenant_id, asset_id, hours)
    SELECT NEW.tenant_id, NEW.asset_id, tstzrange('-infinity', now())
    WHERE EXISTS (SELECT FROM forecast_runs WHERE tenant_id = NEW.tenant_id);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER naive_scores_are_due AFTER UPDATE ON assets
FOR EACH ROW WHEN (OLD.available_after <> NEW.available_after) EXECUTE FUNCTION note_scores_of_asset();

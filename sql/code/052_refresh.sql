-- The refresh as a whole: a procedure for people and the scheduler. `ai-hub refresh` makes the same steps, with
-- a progress bar between them.

DROP PROCEDURE IF EXISTS refresh_feature_aggregates(timestamptz);

-- One refresh at a time, for speed: the plans of ranges keep two side by side correct as well.
CREATE OR REPLACE FUNCTION feature_refresh_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 7236451180 $$;

-- Whether quarter hours have just begun to be aggregated, and nothing of them is materialized.
CREATE OR REPLACE FUNCTION quarter_hours_are_new() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM _timescaledb_catalog.continuous_agg AS aggregates
        JOIN _timescaledb_catalog.hypertable AS tables ON tables.id = aggregates.mat_hypertable_id
        WHERE user_view_schema = 'public' AND user_view_name = 'quarter_hour_features'
            -- a chunk; the views of TimescaleDB's schema of information take longer to plan than the rest of a refresh
            AND NOT EXISTS (
                SELECT FROM pg_inherits WHERE inhparent = format('%I.%I', tables.schema_name, tables.table_name)::regclass
            )
    )
$$;

-- Windows to refresh the aggregates in, one after the other. Where much is planned or new, weeks of it, which bounds
-- memory; last and always everything that is out of date (NULL, NULL), which costs what is out of date.
CREATE OR REPLACE FUNCTION feature_aggregate_windows(since timestamptz DEFAULT NULL)
RETURNS TABLE (window_start timestamptz, window_end timestamptz)
LANGUAGE sql STABLE AS $$
    (SELECT DISTINCT week, week + INTERVAL '7 days'
    FROM declared_refresh_ranges AS ranges
    CROSS JOIN LATERAL generate_series(
        time_bucket(INTERVAL '7 days', ranges.first_hour - INTERVAL '1 hour'), ranges.end_hour, INTERVAL '7 days'
    ) AS week
    WHERE since IS NOT NULL
        OR (SELECT sum(extract(epoch FROM end_hour - first_hour) / 3600) FROM declared_refresh_ranges) > 50000
    UNION
    SELECT week, week + INTERVAL '7 days'
    FROM asset_spans
    CROSS JOIN LATERAL unnest(periods) AS period
    CROSS JOIN LATERAL generate_series(
        time_bucket(INTERVAL '7 days', lower(period)), least(upper(period) - INTERVAL '168 hours', now()), INTERVAL '7 days'
    ) AS week
    WHERE (SELECT quarter_hours_are_new())
    ORDER BY week)
    UNION ALL
    SELECT NULL, NULL
$$;

-- Whether an hour of the aggregate is about to be materialized by a session that has not committed it: a refresh of
-- another session skips such hours and returns.
CREATE OR REPLACE FUNCTION hours_being_materialized() RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (
        SELECT FROM _timescaledb_catalog.continuous_aggs_materialization_ranges
        WHERE lowest_modified_value < greatest_modified_value
            AND lowest_modified_value < _timescaledb_functions.to_unix_microseconds(time_bucket(INTERVAL '1 hour', now()))
            AND materialization_id = (
                SELECT mat_hypertable_id FROM _timescaledb_catalog.continuous_agg
                WHERE user_view_schema = 'public' AND user_view_name = 'hourly_features'
            )
    )
$$;

-- Materializes the buckets of a window that are out of date, all of them with `anew`, up to the running hour or day; of
-- a week that has just begun there may be none. With no bounds it also waits for those that TimescaleDB's own policy is
-- at: features would be computed from the old ones.
CREATE OR REPLACE PROCEDURE refresh_feature_aggregates(window_start timestamptz, window_end timestamptz, anew boolean)
LANGUAGE plpgsql AS $$
DECLARE
    running timestamptz;
BEGIN
    -- separate ranges stay separate: by default more than ten are merged into one that spans the history
    PERFORM set_config('timescaledb.materializations_per_refresh_window', '1000', false);
    LOOP
        running := least(window_end, time_bucket(INTERVAL '15 minutes', now()));
        IF to_regclass('public.quarter_hour_features') IS NOT NULL AND (window_start IS NULL OR window_start < running) THEN
            CALL refresh_continuous_aggregate('quarter_hour_features', window_start, running, force => anew);
            COMMIT;
        END IF;
        running := least(window_end, time_bucket(INTERVAL '1 hour', now()));
        IF window_start IS NULL OR window_start < running THEN
            CALL refresh_continuous_aggregate('hourly_features', window_start, running, force => anew);
        END IF;
        COMMIT;  -- the daily aggregate sees what the hourly one invalidated only after this
        EXIT WHEN window_start IS NOT NULL OR NOT hours_being_materialized();
        PERFORM pg_sleep(0.1);
        COMMIT;
    END LOOP;
    running := least(window_end, time_bucket(INTERVAL '1 day', now()));
    IF window_start IS NULL OR window_start < running THEN
        CALL refresh_continuous_aggregate('daily_features', window_start, running, force => anew);
    END IF;
    COMMIT;
END
$$;

-- The aggregates have caught up with this plan: its ranges may be computed. Those that another refresh has
-- planned anew in the meantime wait for that one's aggregates.
CREATE OR REPLACE FUNCTION release_feature_plan(plan bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE declared_refresh_ranges SET aggregated = true WHERE plan_id <= plan AND NOT aggregated;
    UPDATE forecast_scores_due SET plan_id = NULL WHERE plan_id <= plan
$$;

CREATE OR REPLACE FUNCTION record_feature_refresh(started timestamptz, computed bigint, changed bigint) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM feature_refreshes WHERE finished_at < now() - INTERVAL '30 days';
    INSERT INTO feature_refreshes (started_at, finished_at, rows_computed, rows_changed)
    SELECT started, feature_stamp(), computed, changed WHERE computed > 0
$$;

DROP FUNCTION IF EXISTS analyze_features();

-- Makes statistics of a hypertable whose chunks have grown by a fifth since there were any, or that has none itself: of what
-- its rows are found by, as nothing is planned by values. Another hour of many assets is left to autovacuum. A chunk in the
-- columnstore is empty, and keeps the number of pages that it had.
CREATE OR REPLACE FUNCTION analyze_grown(hypertable regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    has_grown boolean;
    found_by  text;
BEGIN
    SELECT sum(size) / current_setting('block_size')::integer >= 1.2 * sum(relpages) INTO has_grown
    FROM pg_class CROSS JOIN LATERAL pg_relation_size(oid) AS size
    WHERE oid IN (SELECT show_chunks(hypertable)) AND size > 0;
    IF has_grown OR has_grown IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_statistic WHERE starelid = hypertable AND stainherit
    ) THEN
        SELECT string_agg(quote_ident(attname), ', ') INTO found_by FROM pg_attribute
        WHERE attrelid = hypertable AND attnum > 0 AND NOT attisdropped
            AND atttypid IN ('text'::regtype, 'timestamptz'::regtype, 'integer'::regtype);
        EXECUTE format('ANALYZE %s (%s)', hypertable, found_by);
    END IF;
END
$$;

-- After so many rows were planned: what they are computed from may be new. An aggregate's statistics are those of its own
-- table. To look at all chunks would take longer than an hour of few assets.
CREATE OR REPLACE FUNCTION analyze_features(rows bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF rows >= 10000 THEN
        PERFORM analyze_grown(format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass)
        FROM timescaledb_information.continuous_aggregates;
        PERFORM analyze_grown('weather_features'), analyze_grown('covariates');
        ANALYZE asset_spans, declared_spans;
    END IF;
END
$$;

-- The whole refresh in one call. Skips when another one runs, whose successor will do the work.
CREATE OR REPLACE PROCEDURE refresh_features(since timestamptz DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    started   timestamptz := clock_timestamp();
    this_plan bigint;
    windows   record;
    batch     record;
    computed  bigint := 0;
    changed   bigint := 0;
    kinds     text[] := '{short,long}';
BEGIN
    IF NOT pg_try_advisory_lock(feature_refresh_lock()) THEN
        RAISE NOTICE 'another feature refresh is running';
        RETURN;
    END IF;
    SELECT plan INTO this_plan FROM plan_feature_refresh(since);
    COMMIT;
    FOR windows IN SELECT * FROM feature_aggregate_windows(since) LOOP
        CALL refresh_feature_aggregates(
            windows.window_start, windows.window_end, since IS NOT NULL AND windows.window_start IS NOT NULL
        );
    END LOOP;
    PERFORM release_feature_plan(this_plan);
    COMMIT;
    -- `ai-hub refresh` stores history without holding the lock of refreshes: what it is at is left to it
    IF pg_try_advisory_lock(declared_history_lock()) THEN
        kinds := kinds || 'history'::text;
    END IF;
    LOOP
        SELECT * INTO batch FROM compute_declared_batch(kinds => kinds);
        EXIT WHEN batch.computed = 0;
        computed := computed + batch.computed;
        changed := changed + batch.changed;
        COMMIT;
    END LOOP;
    PERFORM record_feature_refresh(started, computed, changed);
    IF 'history' = ANY (kinds) THEN
        PERFORM pg_advisory_unlock(declared_history_lock());
    END IF;
    PERFORM pg_advisory_unlock(feature_refresh_lock());
    COMMIT;
    IF pg_try_advisory_lock(forecast_scores_lock()) THEN
        WHILE score_forecasts(2000) > 0 LOOP
            COMMIT;
        END LOOP;
        PERFORM pg_advisory_unlock(forecast_scores_lock());
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE refresh_features_job(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
BEGIN
    CALL refresh_features();
END
$$;

SELECT add_job('refresh_features_job', INTERVAL '5 minutes')
WHERE NOT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_name = 'refresh_features_job');

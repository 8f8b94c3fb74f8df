-- Rows of declared feature views (feast_plugins/windows), computed, stored and ended. Columns named
-- `hour` and hours hold the times of rows, which come every 15 or 30 minutes, every hour or every day: each view has
-- its step. Rows of a day are at midnight in the asset's time zone.

DROP VIEW IF EXISTS declared_progress;
DROP VIEW IF EXISTS declared_rows;
DROP VIEW IF EXISTS declared_due;
DROP FUNCTION IF EXISTS declared_range_kind(declared_refresh_ranges);
DROP FUNCTION IF EXISTS hours_in(tstzmultirange);
DROP FUNCTION IF EXISTS hours_in_ranges(declared_refresh_ranges[]);

CREATE OR REPLACE FUNCTION rows_between(first_row timestamptz, end_row timestamptz, step interval)
RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT (extract(epoch FROM end_row - first_row) / extract(epoch FROM step))::double precision
$$;

-- The begin of a day in a time zone: its first midnight where clocks are set back to it.
CREATE OR REPLACE FUNCTION day_begin(day timestamp, timezone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT (day AT TIME ZONE timezone) - CASE
        WHEN ((day AT TIME ZONE timezone) - INTERVAL '1 hour') AT TIME ZONE timezone = day THEN INTERVAL '1 hour'
        ELSE INTERVAL '0'
    END
$$;

-- Rows before this time exist by now.
CREATE OR REPLACE FUNCTION declared_rows_until(step interval, timezone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN step > INTERVAL '1 hour' THEN day_begin(date_trunc('day', now() AT TIME ZONE coalesce(timezone, 'UTC')), coalesce(timezone, 'UTC'))
            + INTERVAL '1 hour'
        ELSE time_bucket(step, now()) + step
    END
$$;

-- Rows of a view, from the hours that have rows: a day may have 25 hours, and has a row at its end.
CREATE OR REPLACE FUNCTION rows_of_step(hours tstzmultirange, step interval) RETURNS tstzmultirange
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN step <= INTERVAL '1 hour' THEN hours
        ELSE (
            SELECT coalesce(range_agg(tstzrange(lower(part), upper(part) + INTERVAL '1 hour')), '{}') FROM unnest(hours) AS part
        )
    END
$$;

-- Begins of the days of a time zone, from `farthest` days before the first one in [first_row, end_row) to `nearest` days before
-- the last one.
CREATE OR REPLACE FUNCTION days_between(
    first_row timestamptz, end_row timestamptz, timezone text, farthest integer, nearest integer
)
RETURNS SETOF timestamptz LANGUAGE sql STABLE ROWS 100 AS $$
    SELECT day_begin(day, timezone)
    FROM generate_series(
        date_trunc('day', (first_row - INTERVAL '1 microsecond') AT TIME ZONE timezone) + (1 - farthest) * INTERVAL '1 day',
        end_row AT TIME ZONE timezone, INTERVAL '1 day'
    ) AS day
    WHERE day_begin(day + nearest * INTERVAL '1 day', timezone) < end_row
$$;

-- Statistics of quarter hours, of which steps other than an hour are made. They are there while a view has such a step:
-- nobody else pays for them.
CREATE OR REPLACE FUNCTION provide_quarter_hours() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM declared_views WHERE step <> INTERVAL '1 hour') THEN
        EXECUTE 'DROP MATERIALIZED VIEW IF EXISTS public.quarter_hour_features';
    ELSIF to_regclass('public.quarter_hour_features') IS NULL THEN
        -- as texts: TimescaleDB changes statements that PL/pgSQL keeps
        EXECUTE $view$
        CREATE MATERIALIZED VIEW public.quarter_hour_features
        WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
        SELECT
            tenant_id,
            asset_id,
            time_bucket(INTERVAL '15 minutes', "timestamp") AS quarter,
            avg(value) AS avg_value,
            stddev_samp(value) AS std_value,
            min(value) AS min_value,
            max(value) AS max_value,
            count(*) AS sample_count,
            stats_state(value) AS value_stats,
            max(ingested_at) AS last_ingested_at,
            sum(interval_seconds) AS known_seconds,
            count(*) FILTER (WHERE interval_seconds IS NULL) AS unknown_count,
            sum(value * interval_seconds) AS value_seconds,
            max(interval_seconds) AS longest_seconds
        FROM public.timeseries_data
        WHERE in_features
        GROUP BY tenant_id, asset_id, time_bucket(INTERVAL '15 minutes', "timestamp")
        WITH NO DATA
        $view$;
        EXECUTE 'CREATE INDEX quarter_hour_features_by_asset ON public.quarter_hour_features (tenant_id, asset_id, quarter)';
    END IF;
END
$$;

-- No declaration changes while rows are computed by it. Advisory, because a change waits for the batch in a queue, and
-- later batches behind it.
CREATE OR REPLACE FUNCTION declared_view_lock(view_name name) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended('declared view ' || view_name, 0)
$$;

-- When a version of a row ends that is replaced now: what it meant may have ended before. Later than it began, also
-- where the clock was set back.
CREATE OR REPLACE FUNCTION declared_version_end(
    declared_view name, version_generation integer, created timestamptz, stamp timestamptz
)
RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT greatest(
        coalesce((
            SELECT ended_at FROM declared_generations AS earlier
            WHERE earlier.view_name = declared_view AND earlier.generation = version_generation
        ), stamp),
        created + INTERVAL '1 microsecond'
    )
$$;

-- Ends the versions of these rows before that of `stamp`, all of them in [lowest, highest) and none in the columnstore.
-- A probe of the primary key each, whatever statistics say: of the newest hour they know nothing, and by the index of the
-- hours of present rows each row would be compared with those of all assets. Hence no condition that one of present rows has.
DROP FUNCTION IF EXISTS end_recent_versions(name, feature_key[], timestamptz, timestamptz, timestamptz);
CREATE FUNCTION end_recent_versions(
    declared_view name, keys feature_key[], lowest timestamptz, highest timestamptz, stamp timestamptz
)
RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    ended bigint;
BEGIN
    EXECUTE format(
        'UPDATE %I AS versions SET superseded_at = declared_version_end(%L, generation, created_timestamp, %L)'
        ' FROM unnest($1) AS replaced'
        ' WHERE versions.tenant_id = replaced.tenant_id AND versions.asset_id = replaced.asset_id'
        ' AND versions.hour = replaced.hour AND versions.hour >= %L AND versions.hour < %L'
        ' AND coalesce(versions.superseded_at, ''infinity'') = ''infinity'' AND versions.created_timestamp <> %L',
        declared_view || '_stored', declared_view, stamp, lowest, highest, stamp
    ) USING keys;
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END
$$;

-- The same for hours of one asset, which may be in the columnstore. Literals, because only they let it open no more than
-- the asset's own batches.
DROP FUNCTION IF EXISTS end_old_versions(name, text, text, timestamptz[], timestamptz);
CREATE FUNCTION end_old_versions(
    declared_view name, tenant text, asset text, hours timestamptz[], stamp timestamptz
)
RETURNS bigint LANGUAGE plpgsql
SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0  -- a refresh that stops half-way stops for ever
AS $$
DECLARE
    ended bigint;
BEGIN
    EXECUTE format(
        'UPDATE %I SET superseded_at = declared_version_end(%L, generation, created_timestamp, %L)'
        ' WHERE tenant_id = %L AND asset_id = %L AND hour >= %L AND hour <= %L AND hour = ANY (%L)'
        ' AND superseded_at IS NULL AND created_timestamp <> %L',
        declared_view || '_stored', declared_view, stamp,
        tenant, asset, hours[1], hours[array_upper(hours, 1)], hours, stamp
    );
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END
$$;

-- Computes ranges of one view and stores what differs; returns how many rows do.
CREATE OR REPLACE FUNCTION compute_declared_ranges(declared declared_views, batch declared_refresh_ranges[])
RETURNS bigint LANGUAGE plpgsql
SET enable_mergejoin = off  -- it would merge known rows by asset only, and compare all hours of each
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    stamp    timestamptz := feature_stamp();
    reach    integer;
    lowest   timestamptz;
    highest  timestamptz;
    changed  bigint;
    replaced feature_key[];
    -- where days change their length
    slack    interval := CASE WHEN declared.step > INTERVAL '1 hour' THEN INTERVAL '26 hours' ELSE '0' END;
    is_short boolean;
BEGIN
    SELECT min(first_hour), max(end_hour), bool_and(end_hour <= first_hour + declared.step) INTO lowest, highest, is_short
    FROM unnest(batch);
    SELECT coalesce(max(farthest), 0) INTO reach FROM declared_reaches WHERE view_name = declared.view_name;

    -- literals leave out chunks, and the readings where all hours are materialized
    EXECUTE format(
        CASE WHEN is_short THEN regexp_replace(declared.statement, '/\* long ranges \*/.*/\* end of long ranges \*/', '')
            ELSE declared.statement END,
        lowest, highest, lowest - reach * declared.step - slack, highest - declared.step + slack
    )
    INTO changed, replaced USING batch, stamp, declared.generation, declared.meanings;

    PERFORM end_replaced_versions(declared.view_name, replaced, lowest, highest, stamp);
    PERFORM note_stored_ranges(batch);
    RETURN changed;
END
$$;

-- Ends the versions of these rows, all of them in [lowest, highest), before that of `stamp`. No row may be present twice:
-- where one of them is not there to be ended, nothing is stored, and the ranges are computed again.
CREATE OR REPLACE FUNCTION end_replaced_versions(
    declared_view name, replaced feature_key[], lowest timestamptz, highest timestamptz, stamp timestamptz
)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- nothing newer is in the columnstore, see its policy
    in_rows timestamptz := now() - INTERVAL '89 days';
    recent  feature_key[] := ARRAY(SELECT key FROM unnest(replaced) AS key WHERE key.hour >= in_rows);
    ended   bigint := 0;
    old     record;
BEGIN
    IF cardinality(recent) > 0 THEN
        ended := end_recent_versions(declared_view, recent, greatest(lowest, in_rows), highest, stamp);
    END IF;
    FOR old IN
        SELECT tenant_id, asset_id, array_agg(hour ORDER BY hour) AS hours
        FROM unnest(replaced) WHERE hour < in_rows GROUP BY tenant_id, asset_id
    LOOP
        ended := ended + end_old_versions(declared_view, old.tenant_id, old.asset_id, old.hours, stamp);
    END LOOP;
    IF ended < cardinality(replaced) THEN
        RAISE EXCEPTION '% of % replaced rows could not be ended', cardinality(replaced) - ended, cardinality(replaced)
            USING ERRCODE = 'serialization_failure';
    END IF;
END
$$;

-- Rows of these ranges are stored.
CREATE OR REPLACE FUNCTION note_stored_ranges(batch declared_refresh_ranges[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO declared_spans AS spans (view_name, tenant_id, asset_id, stored)
    SELECT view_name, tenant_id, asset_id, range_agg(tstzrange(first_hour, end_hour))
    FROM unnest(batch) GROUP BY view_name, tenant_id, asset_id ORDER BY view_name, tenant_id, asset_id
    ON CONFLICT (view_name, tenant_id, asset_id) DO UPDATE SET stored = spans.stored + excluded.stored
    WHERE NOT spans.stored @> excluded.stored
$$;

-- Due ranges and what they are. Those of two days and more are long: `ai-hub refresh` computes them in columns
-- (feast_plugins/windows/history.py). Those of them of which nothing is stored are history: their rows are computed when
-- they are read, so nobody waits. A view, because a function with a subquery is called for each range.
CREATE OR REPLACE VIEW declared_due AS
SELECT
    ranges.ctid AS range, ranges.*,
    CASE
        WHEN end_hour < first_hour + INTERVAL '48 hours' THEN 'short'
        WHEN EXISTS (
            SELECT FROM declared_spans AS spans
            WHERE spans.view_name = ranges.view_name AND spans.tenant_id = ranges.tenant_id AND spans.asset_id = ranges.asset_id
                AND spans.stored && tstzrange(ranges.first_hour, ranges.end_hour)
        ) THEN 'long'
        ELSE 'history'
    END AS kind
FROM declared_refresh_ranges AS ranges
WHERE aggregated;

-- After so many rows were stored: a view's table may be new.
CREATE OR REPLACE FUNCTION analyze_declared(rows bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM analyze_grown(format('%I', view_name || '_stored')::regclass) FROM declared_views WHERE rows >= 10000;
END
$$;

-- One session at a time sees to history; others leave it to that one.
CREATE OR REPLACE FUNCTION declared_history_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 7236451183 $$;

-- Takes due ranges of these kinds of one view, about `max_rows` rows in all: they are forgotten with the transaction that
-- computes them, which must do so. No plan is made meanwhile, because it waits for them. No row: nothing is due.
CREATE OR REPLACE FUNCTION take_declared_ranges(max_rows integer, session integer, sessions integer, kinds text[])
RETURNS TABLE (declared declared_views, batch declared_refresh_ranges[])
LANGUAGE plpgsql AS $$
DECLARE
    next_view name;
BEGIN
    WHILE batch IS NULL LOOP  -- or the view was changed meanwhile
        SELECT view_name INTO next_view FROM declared_due
        WHERE (hashtext(tenant_id || asset_id) & 2147483647) % sessions = session
            AND (end_hour < first_hour + INTERVAL '48 hours' OR kinds <> '{short}') AND kind = ANY (kinds)
        ORDER BY place LIMIT 1;
        IF next_view IS NULL THEN
            RETURN;
        END IF;
        PERFORM pg_advisory_xact_lock_shared(declared_view_lock(next_view));
        SELECT * INTO declared FROM declared_views WHERE view_name = next_view FOR KEY SHARE;
        WITH due AS (
            SELECT range, place, rows_between(first_hour, end_hour, declared.step) AS rows
            FROM declared_due
            WHERE view_name = next_view AND (hashtext(tenant_id || asset_id) & 2147483647) % sessions = session
                AND (end_hour < first_hour + INTERVAL '48 hours' OR kinds <> '{short}') AND kind = ANY (kinds)
            -- others have at least two days
            ORDER BY place LIMIT CASE
                WHEN 'short' = ANY (kinds) THEN max_rows
                ELSE ceil(max_rows / rows_between('epoch', TIMESTAMPTZ 'epoch' + INTERVAL '48 hours', declared.step))::bigint + 1
            END
        ),
        sized AS (
            SELECT *, sum(rows) OVER (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS rows_before FROM due
        ),
        taken AS (  -- by their place on disk: with any other join, statistics of an emptier table make it quadratic
            DELETE FROM declared_refresh_ranges AS ranges
            WHERE ctid = ANY (ARRAY(SELECT range FROM sized WHERE coalesce(rows_before, 0) < max_rows))
            RETURNING ranges.*
        )
        SELECT array_agg(taken::declared_refresh_ranges) INTO batch FROM taken;
    END LOOP;
    RETURN NEXT;
END
$$;

-- Computes ranges of one view; those that fail are left to the next refresh, and the others go on.
CREATE OR REPLACE FUNCTION compute_declared_pieces(declared declared_views, batch declared_refresh_ranges[])
RETURNS TABLE (computed bigint, changed bigint)
LANGUAGE plpgsql AS $$
DECLARE
    piece declared_refresh_ranges;
BEGIN
    changed := compute_declared_ranges(declared, batch);
    computed := rows_in_ranges(batch, declared.step);
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    computed := 0;
    changed := 0;
    FOREACH piece IN ARRAY batch LOOP
        BEGIN
            changed := changed + compute_declared_ranges(declared, ARRAY[piece]);
            computed := computed + rows_in_ranges(ARRAY[piece], declared.step);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'rows of % are not stored: tenant %, asset %, % to %: %',
                piece.view_name, piece.tenant_id, piece.asset_id, piece.first_hour, piece.end_hour, SQLERRM;
            piece.aggregated := false;  -- for the next plan
            INSERT INTO declared_refresh_ranges SELECT (piece).* ON CONFLICT DO NOTHING;
        END;
    END LOOP;
    RETURN NEXT;
END
$$;

-- Computes ranges of one view, about `max_rows` rows in all, and forgets them, in one transaction. Returns the hours done
-- (0 when nothing is due) and how many rows changed: an unchanged row keeps its created_timestamp. Several sessions at
-- once have each its own assets: two at the same one would meet in its span and in the columnstore.
DROP FUNCTION IF EXISTS compute_declared_batch(integer, integer, integer);
CREATE OR REPLACE FUNCTION compute_declared_batch(
    max_rows integer DEFAULT 20000, session integer DEFAULT 0, sessions integer DEFAULT 1,
    kinds text[] DEFAULT '{short,long,history}'
)
RETURNS TABLE (computed bigint, changed bigint)
LANGUAGE plpgsql AS $$
DECLARE
    taken record;
BEGIN
    computed := 0;
    changed := 0;
    WHILE computed = 0 LOOP
        SELECT * INTO taken FROM take_declared_ranges(max_rows, session, sessions, kinds);
        EXIT WHEN NOT FOUND;
        SELECT pieces.computed, pieces.changed INTO computed, changed
        FROM compute_declared_pieces(taken.declared, taken.batch) AS pieces;
    END LOOP;
    RETURN NEXT;
END
$$;

-- Of days at least one, so that a batch of a part of a day counts as done.
CREATE OR REPLACE FUNCTION rows_in_ranges(ranges declared_refresh_ranges[], step interval)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT ceil(coalesce(sum(rows_between(first_hour, end_hour, step)), 0))::bigint FROM unnest(ranges)
$$;

-- Rows of an asset outside of `existing` stop to exist; what they were stays known.
CREATE OR REPLACE FUNCTION end_declared_rows(tenant text, asset text, existing tstzmultirange)
RETURNS void LANGUAGE plpgsql
SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0 AS $$
DECLARE
    spans record;
    gone  tstzrange;
BEGIN
    FOR spans IN
        SELECT view_name, stored, rows_of_step(existing, step) AS existing
        FROM declared_spans JOIN declared_views USING (view_name)
        WHERE tenant_id = tenant AND asset_id = asset ORDER BY view_name
    LOOP
        FOR gone IN SELECT unnest(spans.stored - spans.existing) LOOP
            EXECUTE format(
                'UPDATE %I SET superseded_at = declared_version_end(%L, generation, created_timestamp, %L)'
                ' WHERE tenant_id = %L AND asset_id = %L AND hour >= %L AND hour < %L AND superseded_at IS NULL',
                spans.view_name || '_stored', spans.view_name, feature_stamp(),
                tenant, asset, lower(gone), upper(gone)
            );
        END LOOP;
        UPDATE declared_spans SET stored = spans.stored * spans.existing
        WHERE view_name = spans.view_name AND tenant_id = tenant AND asset_id = asset;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION rows_in(ranges tstzmultirange, step interval) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT round(coalesce(sum(rows_between(lower(part), upper(part), step)), 0))::bigint FROM unnest(ranges) AS part
$$;

-- Rows of each asset that exist by now, and those of them that are stored. The others are computed when they are read.
CREATE VIEW declared_rows AS
SELECT
    views.view_name, views.step, asset_spans.tenant_id, asset_spans.asset_id, existing.rows,
    existing.rows * coalesce(spans.stored, '{}') AS stored
FROM declared_views AS views
CROSS JOIN asset_spans
LEFT JOIN assets ON assets.tenant_id = asset_spans.tenant_id AND assets.asset_id = asset_spans.asset_id
CROSS JOIN LATERAL (SELECT declared_rows_until(views.step, assets.timezone) AS until) AS now
CROSS JOIN LATERAL (
    SELECT rows_of_step(
        range_agg(tstzrange(lower(period) + INTERVAL '1 hour', upper(period) - INTERVAL '143 hours')), views.step
    ) * tstzmultirange(tstzrange(NULL, now.until)) AS rows
    FROM unnest(asset_spans.periods) AS period WHERE lower(period) + INTERVAL '1 hour' < now.until
) AS existing
LEFT JOIN declared_spans AS spans
    ON spans.view_name = views.view_name AND spans.tenant_id = asset_spans.tenant_id AND spans.asset_id = asset_spans.asset_id
WHERE existing.rows IS NOT NULL;

-- How many of them there are.
CREATE VIEW declared_progress AS
SELECT
    view_name, count(rows) AS assets,
    coalesce(sum(rows_in(rows, views.step)), 0)::bigint AS rows,
    coalesce(sum(rows_in(stored, views.step)), 0)::bigint AS stored
FROM declared_views AS views LEFT JOIN declared_rows USING (view_name)
GROUP BY view_name;

-- Rows of days move with the time zone.
CREATE OR REPLACE TRIGGER zone_changed AFTER UPDATE ON assets
FOR EACH ROW WHEN (OLD.timezone <> NEW.timezone) EXECUTE FUNCTION note_asset_change('zone');
CREATE OR REPLACE TRIGGER zone_added AFTER INSERT ON assets
FOR EACH ROW WHEN (NEW.timezone <> 'UTC') EXECUTE FUNCTION note_asset_change('zone');

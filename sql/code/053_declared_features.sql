-- Rows of declared feature views (feast_plugins/windows), stored and ended as those of ai_features are.

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
-- An index probe each, whatever statistics say of the newest hour.
CREATE OR REPLACE FUNCTION end_recent_versions(
    declared_view name, keys feature_key[], lowest timestamptz, highest timestamptz, stamp timestamptz
)
RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    EXECUTE format(
        'UPDATE %I AS versions SET superseded_at = declared_version_end(%L, generation, created_timestamp, %L)'
        ' FROM unnest($1) AS replaced'
        ' WHERE versions.tenant_id = replaced.tenant_id AND versions.asset_id = replaced.asset_id'
        ' AND versions.hour = replaced.hour AND versions.hour >= %L AND versions.hour < %L'
        ' AND versions.superseded_at IS NULL AND versions.created_timestamp <> %L',
        declared_view || '_stored', declared_view, stamp, lowest, highest, stamp
    ) USING keys;
END
$$;

-- The same for hours of one asset, which may be in the columnstore. Literals, because only they let it open no more than
-- the asset's own batches.
CREATE OR REPLACE FUNCTION end_old_versions(
    declared_view name, tenant text, asset text, hours timestamptz[], stamp timestamptz
)
RETURNS void LANGUAGE plpgsql
SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0  -- a refresh that stops half-way stops for ever
AS $$
BEGIN
    EXECUTE format(
        'UPDATE %I SET superseded_at = declared_version_end(%L, generation, created_timestamp, %L)'
        ' WHERE tenant_id = %L AND asset_id = %L AND hour >= %L AND hour <= %L AND hour = ANY (%L)'
        ' AND superseded_at IS NULL AND created_timestamp <> %L',
        declared_view || '_stored', declared_view, stamp,
        tenant, asset, hours[1], hours[array_upper(hours, 1)], hours, stamp
    );
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
    -- nothing newer is in the columnstore, see its policy
    in_rows  timestamptz := now() - INTERVAL '89 days';
    changed  bigint;
    replaced feature_key[];
    recent   feature_key[];
    old      record;
BEGIN
    SELECT min(first_hour), max(end_hour) INTO lowest, highest FROM unnest(batch);
    SELECT coalesce(max(farthest), 0) INTO reach FROM declared_reaches WHERE view_name = declared.view_name;

    -- literals leave out chunks, and the readings where all hours are materialized
    EXECUTE format(
        declared.statement, lowest, highest, lowest - reach * INTERVAL '1 hour', highest - INTERVAL '1 hour'
    )
    INTO changed, replaced USING batch, stamp, declared.generation, declared.meanings;

    recent := ARRAY(SELECT key FROM unnest(replaced) AS key WHERE key.hour >= in_rows);
    IF cardinality(recent) > 0 THEN
        PERFORM end_recent_versions(declared.view_name, recent, greatest(lowest, in_rows), highest, stamp);
    END IF;
    FOR old IN
        SELECT tenant_id, asset_id, array_agg(hour ORDER BY hour) AS hours
        FROM unnest(replaced) WHERE hour < in_rows GROUP BY tenant_id, asset_id
    LOOP
        PERFORM end_old_versions(declared.view_name, old.tenant_id, old.asset_id, old.hours, stamp);
    END LOOP;

    INSERT INTO declared_spans AS spans (view_name, tenant_id, asset_id, stored)
    SELECT declared.view_name, tenant_id, asset_id, range_agg(tstzrange(first_hour, end_hour))
    FROM unnest(batch) GROUP BY tenant_id, asset_id ORDER BY tenant_id, asset_id
    ON CONFLICT (view_name, tenant_id, asset_id) DO UPDATE SET stored = spans.stored + excluded.stored
    WHERE NOT spans.stored @> excluded.stored;
    RETURN changed;
END
$$;

-- Computes ranges of one view, about `max_rows` rows in all, and forgets them, in one transaction: see
-- compute_feature_batch(). Ranges that fail are left to the next refresh, and the others go on.
DROP FUNCTION IF EXISTS compute_declared_batch(integer, integer, integer);
CREATE FUNCTION compute_declared_batch(
    max_rows integer DEFAULT 20000, session integer DEFAULT 0, sessions integer DEFAULT 1
)
RETURNS TABLE (computed bigint, changed bigint)
LANGUAGE plpgsql AS $$
DECLARE
    next_view name;
    declared  declared_views;
    batch     declared_refresh_ranges[];
    piece     declared_refresh_ranges;
BEGIN
    computed := 0;
    changed := 0;
    WHILE computed = 0 LOOP
        SELECT view_name INTO next_view FROM declared_refresh_ranges
        WHERE aggregated AND (hashtext(tenant_id || asset_id) & 2147483647) % sessions = session
        ORDER BY place LIMIT 1;
        EXIT WHEN next_view IS NULL;
        PERFORM pg_advisory_xact_lock_shared(declared_view_lock(next_view));
        SELECT * INTO declared FROM declared_views WHERE view_name = next_view FOR KEY SHARE;
        WITH due AS (
            SELECT ctid AS range, place, extract(epoch FROM end_hour - first_hour) / 3600 AS rows
            FROM declared_refresh_ranges
            WHERE aggregated AND view_name = next_view AND (hashtext(tenant_id || asset_id) & 2147483647) % sessions = session
            ORDER BY place LIMIT max_rows
        ),
        sized AS (
            SELECT *, sum(rows) OVER (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS rows_before FROM due
        ),
        taken AS (
            DELETE FROM declared_refresh_ranges AS ranges
            WHERE ctid = ANY (ARRAY(SELECT range FROM sized WHERE coalesce(rows_before, 0) < max_rows))
            RETURNING ranges.*
        )
        SELECT array_agg(taken::declared_refresh_ranges) INTO batch FROM taken;
        CONTINUE WHEN batch IS NULL;  -- the view was changed meanwhile
        BEGIN
            changed := compute_declared_ranges(declared, batch);
            computed := hours_in_ranges(batch);
        EXCEPTION WHEN OTHERS THEN
            FOREACH piece IN ARRAY batch LOOP
                BEGIN
                    changed := changed + compute_declared_ranges(declared, ARRAY[piece]);
                    computed := computed + hours_in_ranges(ARRAY[piece]);
                EXCEPTION WHEN OTHERS THEN
                    RAISE WARNING 'rows of % are not stored: tenant %, asset %, % to %: %',
                        next_view, piece.tenant_id, piece.asset_id, piece.first_hour, piece.end_hour, SQLERRM;
                    piece.aggregated := false;  -- for the next plan
                    INSERT INTO declared_refresh_ranges SELECT (piece).* ON CONFLICT DO NOTHING;
                END;
            END LOOP;
        END;
    END LOOP;
    RETURN NEXT;
END
$$;

CREATE OR REPLACE FUNCTION hours_in_ranges(ranges declared_refresh_ranges[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(extract(epoch FROM end_hour - first_hour) / 3600), 0)::bigint FROM unnest(ranges)
$$;

-- Rows of an asset outside of `existing` stop to exist; what they were stays known.
CREATE OR REPLACE FUNCTION end_declared_rows(tenant text, asset text, existing tstzmultirange)
RETURNS void LANGUAGE plpgsql
SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0 AS $$
DECLARE
    spans declared_spans;
    gone  tstzrange;
BEGIN
    FOR spans IN SELECT * FROM declared_spans WHERE tenant_id = tenant AND asset_id = asset ORDER BY view_name LOOP
        FOR gone IN SELECT unnest(spans.stored - existing) LOOP
            EXECUTE format(
                'UPDATE %I SET superseded_at = declared_version_end(%L, generation, created_timestamp, %L)'
                ' WHERE tenant_id = %L AND asset_id = %L AND hour >= %L AND hour < %L AND superseded_at IS NULL',
                spans.view_name || '_stored', spans.view_name, feature_stamp(),
                tenant, asset, lower(gone), upper(gone)
            );
        END LOOP;
        UPDATE declared_spans SET stored = spans.stored * existing
        WHERE view_name = spans.view_name AND tenant_id = tenant AND asset_id = asset;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION hours_in(ranges tstzmultirange) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(extract(epoch FROM upper(part) - lower(part)) / 3600), 0)::bigint FROM unnest(ranges) AS part
$$;

-- How many rows of each view exist and how many of them are stored. The others are computed when they are read.
CREATE OR REPLACE VIEW declared_progress AS
SELECT
    views.view_name, count(existing.rows) AS assets,
    coalesce(sum(hours_in(existing.rows)), 0)::bigint AS rows,
    coalesce(sum(hours_in(existing.rows * coalesce(spans.stored, '{}'))), 0)::bigint AS stored
FROM declared_views AS views
LEFT JOIN asset_spans ON true
LEFT JOIN LATERAL (
    SELECT range_agg(tstzrange(
        lower(period) + INTERVAL '1 hour',
        least(upper(period) - INTERVAL '143 hours', time_bucket(INTERVAL '1 hour', now()) + INTERVAL '1 hour')
    )) AS rows
    FROM unnest(asset_spans.periods) AS period WHERE lower(period) < time_bucket(INTERVAL '1 hour', now())
) AS existing ON true
LEFT JOIN declared_spans AS spans
    ON spans.view_name = views.view_name AND spans.tenant_id = asset_spans.tenant_id AND spans.asset_id = asset_spans.asset_id
GROUP BY views.view_name;

-- Rows of declared feature views (feast_plugins/windows), stored and ended as those of ai_features are.

-- Computes ranges of one view, about `max_rows` rows in all, and forgets them, in one transaction: see
-- compute_feature_batch().
DROP FUNCTION IF EXISTS compute_declared_batch(integer, integer, integer);
CREATE FUNCTION compute_declared_batch(
    max_rows integer DEFAULT 20000, session integer DEFAULT 0, sessions integer DEFAULT 1
)
RETURNS TABLE (computed bigint, changed bigint)
LANGUAGE plpgsql
SET enable_mergejoin = off
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    next_view name;
    declared  declared_views;
    batch     declared_refresh_ranges[];
    reach     integer;
    lowest    timestamptz;
    highest   timestamptz;
BEGIN
    SELECT view_name INTO next_view FROM declared_refresh_ranges
    WHERE aggregated AND (hashtext(tenant_id || asset_id) & 2147483647) % sessions = session
    ORDER BY place LIMIT 1;
    -- a change of the declaration waits for the batch
    SELECT * INTO declared FROM declared_views WHERE view_name = next_view FOR SHARE;
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
    SELECT array_agg(taken::declared_refresh_ranges), sum(extract(epoch FROM end_hour - first_hour) / 3600)::bigint,
        min(first_hour), max(end_hour)
    INTO batch, computed, lowest, highest FROM taken;
    IF batch IS NULL THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;
    SELECT coalesce(max(farthest), 0) INTO reach FROM declared_reaches WHERE view_name = next_view;

    -- literals leave out chunks
    EXECUTE format(declared.statement, lowest, highest, lowest - reach * INTERVAL '1 hour')
    INTO changed USING batch, feature_stamp(), declared.changed_at, declared.generation;

    INSERT INTO declared_spans AS spans (view_name, tenant_id, asset_id, stored)
    SELECT next_view, tenant_id, asset_id, range_agg(tstzrange(first_hour, end_hour))
    FROM unnest(batch) GROUP BY tenant_id, asset_id ORDER BY tenant_id, asset_id
    ON CONFLICT (view_name, tenant_id, asset_id) DO UPDATE SET stored = spans.stored + excluded.stored;
    RETURN NEXT;
END
$$;

-- Rows of an asset outside of `existing` stop to exist; what they were stays known.
CREATE OR REPLACE FUNCTION end_declared_rows(tenant text, asset text, existing tstzmultirange)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    spans declared_spans;
    gone  tstzrange;
BEGIN
    FOR spans IN SELECT * FROM declared_spans WHERE tenant_id = tenant AND asset_id = asset ORDER BY view_name LOOP
        FOR gone IN SELECT unnest(spans.stored - existing) LOOP
            EXECUTE format(
                'UPDATE %I SET superseded_at = %L WHERE tenant_id = %L AND asset_id = %L'
                ' AND hour >= %L AND hour < %L AND superseded_at IS NULL',
                spans.view_name || '_stored', feature_stamp(), tenant, asset, lower(gone), upper(gone)
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

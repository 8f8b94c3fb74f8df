-- What a refresh has to compute.
--
-- Order matters: changes are planned first, then the aggregates are refreshed, then the planned rows are
-- computed; so a computed row has seen at least the changes that planned it. Every step commits and can be
-- repeated: a killed refresh is taken up by the next.

DROP FUNCTION IF EXISTS plan_feature_refresh(timestamptz);

-- Turns queued changes, hours that have begun since the last plan, and what an earlier refresh left, into
-- ranges of rows to compute. With `since`, every row from then on is planned. Returns the plan and the number
-- of hours planned.
CREATE FUNCTION plan_feature_refresh(since timestamptz DEFAULT NULL) RETURNS TABLE (plan bigint, hours bigint)
LANGUAGE plpgsql AS $$
DECLARE
    this_plan bigint := nextval('feature_plans');
    this_hour timestamptz := time_bucket(INTERVAL '1 hour', now());
    deletions bigint[];
BEGIN
    deletions := ARRAY(SELECT change_id FROM feature_changes WHERE source = 'deletion');
    PERFORM narrow_asset_span(tenant_id, asset_id)
    FROM (SELECT DISTINCT tenant_id, asset_id FROM feature_changes WHERE change_id = ANY (deletions)) AS assets;
    PERFORM extend_feature_hours();

    WITH changes AS (
        -- a deletion committed after the spans were narrowed waits for the next refresh
        DELETE FROM feature_changes WHERE source <> 'deletion' OR change_id = ANY (deletions)
        RETURNING source, tenant_id, asset_id, first_hour, last_hour
    ),
    pending AS (
        DELETE FROM feature_refresh_ranges RETURNING tenant_id, asset_id, first_hour, end_hour
    ),
    spans AS (
        SELECT
            tenant_id, asset_id, first_hour + INTERVAL '1 hour' AS first_row,
            least(last_hour + INTERVAL '24 hours', this_hour) AS last_row, stored_from, stored_through
        FROM asset_spans
    ),
    touched AS (
        SELECT tenant_id, asset_id, first_hour, end_hour FROM pending
        UNION ALL
        -- rows whose first computation is due: newer than the stored ones, or older
        SELECT tenant_id, asset_id, coalesce(stored_through + INTERVAL '1 hour', first_row), last_row + INTERVAL '1 hour'
        FROM spans
        UNION ALL
        SELECT tenant_id, asset_id, first_row, stored_from FROM spans
        UNION ALL  -- a reading is in the 24 h windows and lags of the next 24 rows
        SELECT tenant_id, asset_id, first_hour + INTERVAL '1 hour', last_hour + INTERVAL '25 hours'
        FROM changes WHERE source IN ('readings', 'deletion')
        UNION ALL  -- and it is a lag_168h
        SELECT tenant_id, asset_id, first_hour + INTERVAL '168 hours', last_hour + INTERVAL '169 hours'
        FROM changes WHERE source IN ('readings', 'deletion')
        UNION ALL
        SELECT spans.tenant_id, spans.asset_id, changes.first_hour, changes.last_hour + INTERVAL '7 hours'
        FROM changes
        JOIN asset_spans AS spans ON spans.tenant_id = changes.tenant_id
        LEFT JOIN assets ON assets.tenant_id = spans.tenant_id AND assets.asset_id = spans.asset_id
        WHERE changes.source = 'weather' AND coalesce(assets.weather_asset_id, spans.asset_id) = changes.asset_id
        UNION ALL
        SELECT tenant_id, asset_id, time_bucket(INTERVAL '1 hour', since), last_hour + INTERVAL '25 hours'
        FROM asset_spans WHERE since IS NOT NULL
    ),
    merged AS (
        SELECT
            tenant_id, asset_id, first_row, stored_from, stored_through,
            unnest(range_agg(tstzrange(greatest(first_hour, first_row), least(end_hour, last_row + INTERVAL '1 hour')))) AS part
        FROM touched
        JOIN spans USING (tenant_id, asset_id)
        WHERE greatest(first_hour, first_row) < least(end_hour, last_row + INTERVAL '1 hour')
        GROUP BY tenant_id, asset_id, first_row, stored_from, stored_through
    ),
    pieces AS (  -- of at most a month, which bounds a batch
        SELECT
            tenant_id, asset_id, first_row, stored_from, stored_through,
            piece_start, least(upper(part), piece_start + INTERVAL '744 hours') AS piece_end
        FROM merged
        CROSS JOIN LATERAL generate_series(lower(part), upper(part) - INTERVAL '1 hour', INTERVAL '744 hours') AS piece_start
    )
    INSERT INTO feature_refresh_ranges (tenant_id, asset_id, first_hour, end_hour, plan_id, place)
    SELECT
        tenant_id, asset_id, piece_start, piece_end, this_plan,
        row_number() OVER (
            -- the stored rows of an asset grow from their ends, so they never have a hole
            ORDER BY
                CASE WHEN piece_end <= stored_from THEN stored_from - piece_end
                ELSE piece_start - coalesce(stored_through + INTERVAL '1 hour', first_row) END,
                tenant_id, asset_id
        )
    FROM pieces;

    RETURN QUERY
    SELECT this_plan, coalesce(sum(extract(epoch FROM end_hour - first_hour) / 3600), 0)::bigint
    FROM feature_refresh_ranges;
END
$$;

-- Readings were deleted: forgets the rows that no longer exist.
CREATE OR REPLACE FUNCTION narrow_asset_span(tenant text, asset text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    earliest timestamptz;
    latest   timestamptz;
    first    timestamptz;
    last     timestamptz;
BEGIN
    SELECT "timestamp" INTO earliest FROM timeseries_data
    WHERE tenant_id = tenant AND asset_id = asset ORDER BY "timestamp" LIMIT 1;
    SELECT "timestamp" INTO latest FROM timeseries_data
    WHERE tenant_id = tenant AND asset_id = asset ORDER BY "timestamp" DESC LIMIT 1;
    IF earliest IS NULL THEN
        DELETE FROM asset_spans WHERE tenant_id = tenant AND asset_id = asset;
        PERFORM bury_feature_rows(tenant, asset, 'infinity', 'infinity');
        RETURN;
    END IF;
    first := time_bucket(INTERVAL '1 hour', earliest);
    last := time_bucket(INTERVAL '1 hour', latest);
    UPDATE asset_spans SET
        first_hour = first,
        last_hour = last,
        stored_from = greatest(stored_from, first + INTERVAL '1 hour'),
        stored_through = least(stored_through, last + INTERVAL '24 hours')
    WHERE tenant_id = tenant AND asset_id = asset;
    PERFORM bury_feature_rows(tenant, asset, first, last + INTERVAL '24 hours');
END
$$;

-- Rows outside (after, until] stop to exist; what they were stays known.
CREATE OR REPLACE FUNCTION bury_feature_rows(tenant text, asset text, after timestamptz, until timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM ai_features WHERE tenant_id = tenant AND asset_id = asset AND (hour <= after OR hour > until);
    PERFORM supersede_feature_versions(tenant, asset, ARRAY(
        SELECT hour FROM ai_feature_versions
        WHERE tenant_id = tenant AND asset_id = asset AND (hour <= after OR hour > until) AND superseded_at IS NULL
        ORDER BY hour
    ), feature_stamp());
END
$$;

-- Ends the present versions of these hours. Literals, because only they let the columnstore open no more than
-- the asset's own batches.
CREATE OR REPLACE FUNCTION supersede_feature_versions(tenant text, asset text, hours timestamptz[], stamp timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'UPDATE ai_feature_versions SET superseded_at = %L WHERE tenant_id = %L AND asset_id = %L'
        ' AND hour >= %L AND hour <= %L AND hour = ANY (%L) AND superseded_at IS NULL AND created_timestamp < %L',
        stamp, tenant, asset, hours[1], hours[array_upper(hours, 1)], hours, stamp
    );
END
$$;

-- Readings outside the hour axis are rare, and extend it.
CREATE OR REPLACE FUNCTION extend_feature_hours() RETURNS void LANGUAGE sql AS $$
    INSERT INTO feature_hours
    SELECT generate_series(bounds.first_hour, known.first_hour - INTERVAL '1 hour', INTERVAL '1 hour')
    FROM (SELECT min(first_hour) AS first_hour FROM asset_spans) AS bounds, (SELECT min(hour) AS first_hour FROM feature_hours) AS known
    UNION ALL
    SELECT generate_series(known.last_hour + INTERVAL '1 hour', bounds.last_hour + INTERVAL '25 hours', INTERVAL '1 hour')
    FROM (SELECT max(last_hour) AS last_hour FROM asset_spans) AS bounds, (SELECT max(hour) AS last_hour FROM feature_hours) AS known
    ON CONFLICT DO NOTHING;
$$;

-- What a refresh has to compute.
--
-- Order matters: changes are planned first, then the aggregates are refreshed, then the planned rows are
-- computed; so a computed row has seen at least the changes that planned it. Every step commits and can be
-- repeated: a killed refresh is taken up by the next.

DROP FUNCTION IF EXISTS plan_feature_refresh(timestamptz);
DROP FUNCTION IF EXISTS narrow_asset_span(text, text);
DROP FUNCTION IF EXISTS bury_feature_rows(text, text, timestamptz, timestamptz);

-- Turns queued changes, hours that have begun since the last plan, and what an earlier refresh left, into
-- ranges of rows to compute. With `since`, every row from then on is planned. Returns the plan and the number
-- of rows planned.
CREATE FUNCTION plan_feature_refresh(since timestamptz DEFAULT NULL) RETURNS TABLE (plan bigint, hours bigint)
LANGUAGE plpgsql AS $$
DECLARE
    this_plan bigint := nextval('feature_plans');
    measured  bigint[];
BEGIN
    -- no view goes while its ranges are planned
    PERFORM FROM declared_views ORDER BY view_name FOR KEY SHARE;
    measured := measure_changed_periods();
    -- until a batch that is being stored is: only the next statement sees what of it is
    PERFORM FROM declared_refresh_ranges FOR UPDATE;

    WITH changes AS (
        -- a deletion committed after the periods were measured waits for the next refresh
        DELETE FROM feature_changes AS changes
        WHERE change_id = ANY (measured) OR source IN ('weather', 'asset', 'keys', 'zone', 'series', 'group') OR source = 'readings' AND EXISTS (
            SELECT FROM asset_spans AS spans
            WHERE spans.tenant_id = changes.tenant_id AND spans.asset_id = changes.asset_id
                AND spans.periods @> tstzrange(changes.first_hour, changes.last_hour + INTERVAL '168 hours', '[]')
        )
        RETURNING source, tenant_id, asset_id, series, zone, first_hour, last_hour, first_at, last_at
    ),
    scored AS (  -- where there are forecasts: of these hours, and of later ones whose naive forecast has their value
        INSERT INTO forecast_scores_due (tenant_id, asset_id, hours, plan_id)
        SELECT tenant_id, asset_id, unnest(range_agg(tstzrange(first_hour + later, last_hour + later + INTERVAL '1 hour'))), this_plan
        FROM (
            SELECT tenant_id, asset_id, first_hour, last_hour FROM changes
            WHERE source IN ('readings', 'deletion', 'asset')
                AND EXISTS (SELECT FROM forecast_runs AS runs WHERE runs.tenant_id = changes.tenant_id)
            OFFSET 0  -- before anything is done for each of them
        ) AS changed
        LEFT JOIN assets USING (tenant_id, asset_id)
        CROSS JOIN LATERAL coalesce(assets.available_after, '0') AS delay
        CROSS JOIN LATERAL naive_days(delay) AS farthest
        CROSS JOIN LATERAL (
            SELECT days * INTERVAL '24 hours' AS later
            FROM generate_series(0, least(
                farthest + 27, greatest(floor(extract(epoch FROM now() - first_hour) / 86400), 0)
            )::integer) AS days
            -- the last known day or week, or one of three before it that are gaps
            WHERE days = 0 OR days * INTERVAL '24 hours' > delay AND (days <= farthest + 3 OR days % 7 = 0)
        ) AS shifts
        GROUP BY tenant_id, asset_id
    ),
    -- hours of groups whose totals may have changed
    group_changes AS MATERIALIZED (
        SELECT tenant_id, "group", unnest(range_agg(part)) AS part
        FROM (
            SELECT tenant_id, zone AS "group", tstzrange(first_hour, last_hour, '[]') AS part
            FROM changes WHERE source = 'group'
            UNION ALL
            SELECT changes.tenant_id, assets."group", tstzrange(
                changes.first_hour,
                -- the member's begin has changed, and each hour since then needs a value of it
                CASE WHEN changes.first_hour > own.first_hour THEN changes.last_hour ELSE 'infinity' END,
                '[]'
            )
            FROM changes
            JOIN assets ON assets.tenant_id = changes.tenant_id AND assets.asset_id = changes.asset_id
            LEFT JOIN asset_spans AS own ON own.tenant_id = changes.tenant_id AND own.asset_id = changes.asset_id
            WHERE changes.source IN ('readings', 'deletion', 'asset') AND assets."group" IS NOT NULL
                AND EXISTS (SELECT FROM declared_reaches WHERE source = 'value@group')
        ) AS touched
        GROUP BY tenant_id, "group"
    ),
    pending AS (
        DELETE FROM declared_refresh_ranges RETURNING view_name, tenant_id, asset_id, first_hour, end_hour
    ),
    declared_reached AS (  -- by changes in the hours from 0 on
        SELECT
            view_name, step, source, nearest * step - slack AS nearest,
            farthest * step + INTERVAL '1 hour' + slack AS farthest
        FROM declared_reaches
        JOIN declared_views USING (view_name)
        -- a day begins at most 14 hours before or after that of UTC, and may have 25 hours
        CROSS JOIN LATERAL (SELECT CASE WHEN step > INTERVAL '1 hour' THEN INTERVAL '26 hours' ELSE '0' END AS slack) AS of_days
    ),
    touched AS (
        SELECT view_name, tenant_id, asset_id, first_hour, end_hour FROM pending
        UNION ALL
        SELECT
            reached.view_name, tenant_id, asset_id,
            CASE WHEN step < INTERVAL '1 hour' AND first_at IS NOT NULL THEN time_bucket(step, first_at) ELSE first_hour END
                + reached.nearest,
            CASE
                WHEN step < INTERVAL '1 hour' AND last_at IS NOT NULL THEN time_bucket(step, last_at) + step - INTERVAL '1 hour'
                ELSE last_hour
            END + reached.farthest
        FROM changes JOIN declared_reached AS reached ON reached.source = 'readings'
        WHERE changes.source IN ('readings', 'deletion')
        UNION ALL
        SELECT views.view_name, tenant_id, asset_id, first_hour + INTERVAL '1 hour', last_hour + INTERVAL '26 hours'
        FROM changes CROSS JOIN declared_views AS views
        WHERE changes.source = 'asset' OR changes.source = 'zone' AND views.step > INTERVAL '1 hour'
            OR changes.source = 'keys' AND EXISTS (
                SELECT FROM declared_reaches AS reaches
                WHERE reaches.view_name = views.view_name
                    AND split_part(reaches.source, '@', 2) IN ('price_zone', 'group', 'weather_station')
            )
        UNION ALL
        SELECT
            reached.view_name, spans.tenant_id, spans.asset_id,
            changes.first_hour + reached.nearest, changes.last_hour + reached.farthest
        FROM changes
        JOIN asset_spans AS spans ON spans.tenant_id = changes.tenant_id
        LEFT JOIN assets ON assets.tenant_id = spans.tenant_id AND assets.asset_id = spans.asset_id
        JOIN declared_reached AS reached ON reached.source = 'weather'
        WHERE changes.source = 'weather' AND coalesce(assets.weather_asset_id, spans.asset_id) = changes.asset_id
        UNION ALL
        SELECT
            reached.view_name, spans.tenant_id, spans.asset_id,
            changes.first_hour + reached.nearest, changes.last_hour + reached.farthest
        FROM changes
        JOIN declared_reached AS reached ON split_part(reached.source, '@', 1) = changes.series
        JOIN asset_spans AS spans ON spans.tenant_id = changes.tenant_id
        LEFT JOIN assets ON assets.tenant_id = spans.tenant_id AND assets.asset_id = spans.asset_id
        WHERE changes.source = 'series' AND changes.zone = CASE split_part(reached.source, '@', 2)
            WHEN 'tenant' THEN ''
            WHEN 'asset' THEN spans.asset_id
            WHEN 'price_zone' THEN assets.price_zone
            WHEN 'group' THEN assets."group"
            WHEN 'weather_station' THEN assets.weather_station
        END
        UNION ALL
        SELECT
            reached.view_name, members.tenant_id, members.asset_id,
            lower(part) + reached.nearest, upper(part) + reached.farthest
        FROM group_changes
        JOIN assets AS members ON members.tenant_id = group_changes.tenant_id AND members."group" = group_changes."group"
        JOIN declared_reached AS reached ON reached.source = 'value@group'
        UNION ALL
        SELECT view_name, tenant_id, asset_id, time_bucket(INTERVAL '1 hour', since), 'infinity'
        FROM asset_spans CROSS JOIN declared_views WHERE since IS NOT NULL
    ),
    merged AS (
        SELECT
            views.view_name, spans.tenant_id, spans.asset_id, views.step,
            unnest(
                -- after a move to the west, rows of the former days are stored that the asset does not have yet
                ranges.touched * CASE WHEN views.step > INTERVAL '1 hour' THEN existing + ranges.stored ELSE existing END
                    + (existing - ranges.stored) * tstzmultirange(tstzrange(views.filled_from, NULL))
            ) AS part
        FROM declared_views AS views
        CROSS JOIN asset_spans AS spans
        LEFT JOIN assets ON assets.tenant_id = spans.tenant_id AND assets.asset_id = spans.asset_id
        LEFT JOIN declared_spans AS known
            ON known.view_name = views.view_name
            AND known.tenant_id = spans.tenant_id AND known.asset_id = spans.asset_id
        LEFT JOIN (
            SELECT view_name, tenant_id, asset_id, range_agg(tstzrange(first_hour, end_hour)) AS rows
            FROM touched GROUP BY view_name, tenant_id, asset_id
        ) AS changed
            ON changed.view_name = views.view_name
            AND changed.tenant_id = spans.tenant_id AND changed.asset_id = spans.asset_id
        CROSS JOIN LATERAL (
            SELECT
                coalesce(changed.rows, '{}') AS touched, coalesce(known.stored, '{}') AS stored,
                greatest(lower(spans.periods) + INTERVAL '1 hour', views.filled_from) AS filled_from,
                declared_rows_until(views.step, assets.timezone) AS until,
                -- from the last row on; of days one hour more, because a day may have 25
                CASE WHEN views.step > INTERVAL '1 hour' THEN INTERVAL '142 hours' ELSE INTERVAL '143 hours' END AS beyond
        ) AS ranges
        CROSS JOIN LATERAL (
            SELECT range_agg(tstzrange(lower(period) + INTERVAL '1 hour', least(upper(period) - beyond, until))) AS existing
            FROM unnest(spans.periods) AS period WHERE lower(period) + INTERVAL '1 hour' < until
        ) AS by_now
        -- of most assets nothing is touched and every row is stored, which this tells sooner
        WHERE changed.rows IS NOT NULL OR NOT ranges.stored @> tstzrange(
            ranges.filled_from, greatest(ranges.filled_from, least(upper(spans.periods) - beyond, until))
        )
    ),
    pieces AS (  -- of at most a month of hours, which bounds a batch
        SELECT view_name, tenant_id, asset_id, piece_start, least(upper(part), piece_start + 744 * step) AS piece_end
        FROM merged
        CROSS JOIN LATERAL generate_series(lower(part), upper(part), 744 * step) AS piece_start
        WHERE piece_start < upper(part)
    )
    INSERT INTO declared_refresh_ranges (view_name, tenant_id, asset_id, first_hour, end_hour, plan_id, place)
    SELECT
        view_name, tenant_id, asset_id, piece_start, piece_end, this_plan,
        -- the newest rows first, for they are read most, and of those what was asked for lately
        row_number() OVER (ORDER BY piece_end DESC, view_name, asked_at DESC NULLS LAST, tenant_id, asset_id)
    FROM pieces LEFT JOIN feature_demand USING (tenant_id, asset_id);
    PERFORM extend_feature_hours();

    RETURN QUERY
    SELECT this_plan, coalesce(sum(rows_between(first_hour, end_hour, step)), 0)::bigint
    FROM declared_refresh_ranges JOIN declared_views USING (view_name);
END
$$;

-- Measures the periods around deleted readings, and around written ones that the asset's periods lack: a writer leaves
-- alone a period that holds its hours, while a deletion may just be taking them out of it. Returns the changes that
-- are seen to.
CREATE OR REPLACE FUNCTION measure_changed_periods() RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    measured bigint[];
    changed  record;
BEGIN
    measured := ARRAY(
        SELECT change_id FROM feature_changes AS changes
        WHERE source IN ('deletion', 'periods') OR source = 'readings' AND NOT EXISTS (
            SELECT FROM asset_spans AS spans
            WHERE spans.tenant_id = changes.tenant_id AND spans.asset_id = changes.asset_id
                AND spans.periods @> tstzrange(changes.first_hour, changes.last_hour + INTERVAL '168 hours', '[]')
        )
    );
    IF cardinality(measured) = 0 THEN
        RETURN measured;
    END IF;
    -- a batch that is being computed may be about to store rows that stop to exist
    LOCK TABLE declared_refresh_ranges IN EXCLUSIVE MODE;
    FOR changed IN  -- sorted, as writers lock them
        SELECT tenant_id, asset_id, range_agg(tstzrange(first_hour, last_hour + INTERVAL '168 hours', '[]')) AS hours
        FROM feature_changes WHERE change_id = ANY (measured)
        GROUP BY tenant_id, asset_id ORDER BY tenant_id, asset_id
    LOOP
        PERFORM measure_asset_span(changed.tenant_id, changed.asset_id, changed.hours);
    END LOOP;
    RETURN measured;
END
$$;

-- Brings an asset's span in line with its readings, where only those up to 168 hours before the end of one of these
-- ranges may have changed, and ends the rows that no longer exist.
CREATE OR REPLACE FUNCTION measure_asset_span(tenant text, asset text, changed tstzmultirange)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    known    asset_spans;
    measured tstzmultirange;
    existing tstzmultirange;
BEGIN
    SELECT * INTO known FROM asset_spans WHERE tenant_id = tenant AND asset_id = asset FOR UPDATE;
    SELECT coalesce(known.periods, '{}') - changed + coalesce(range_agg(period), '{}') INTO measured
    FROM unnest(changed) AS part
    CROSS JOIN LATERAL unnest(reading_periods(tenant, asset, lower(part) - INTERVAL '168 hours', upper(part))) AS period;
    IF isempty(measured) THEN
        DELETE FROM asset_spans WHERE tenant_id = tenant AND asset_id = asset;
        PERFORM end_declared_rows(tenant, asset, '{}');
        RETURN;
    END IF;
    SELECT range_agg(tstzrange(lower(period) + INTERVAL '1 hour', upper(period) - INTERVAL '143 hours')) INTO existing
    FROM unnest(measured) AS period;
    INSERT INTO asset_spans AS spans (tenant_id, asset_id, first_hour, last_hour, periods)
    VALUES (tenant, asset, lower(measured), upper(measured) - INTERVAL '168 hours', measured)
    ON CONFLICT (tenant_id, asset_id) DO UPDATE SET
        first_hour = excluded.first_hour, last_hour = excluded.last_hour, periods = excluded.periods;
    PERFORM end_declared_rows(tenant, asset, existing);
END
$$;

-- The periods of an asset's readings in these hours: a few index probes a week of them.
CREATE OR REPLACE FUNCTION reading_periods(tenant text, asset text, first_hour timestamptz, last_hour timestamptz)
RETURNS tstzmultirange LANGUAGE plpgsql STABLE AS $$
DECLARE
    found    tstzmultirange := '{}';
    after    timestamptz := first_hour;
    reading  timestamptz;
    earliest timestamptz;
    latest   timestamptz;
BEGIN
    LOOP
        SELECT "timestamp" INTO reading FROM timeseries_data
        WHERE tenant_id = tenant AND asset_id = asset
            AND "timestamp" >= after AND "timestamp" < last_hour + INTERVAL '1 hour' AND isfinite("timestamp")
        ORDER BY "timestamp" LIMIT 1;
        EXIT WHEN reading IS NULL;
        earliest := time_bucket(INTERVAL '1 hour', reading);
        WHILE reading IS NOT NULL LOOP
            latest := time_bucket(INTERVAL '1 hour', reading);
            SELECT "timestamp" INTO reading FROM timeseries_data
            WHERE tenant_id = tenant AND asset_id = asset
                AND "timestamp" >= latest + INTERVAL '1 hour'
                AND "timestamp" < least(latest + INTERVAL '169 hours', last_hour + INTERVAL '1 hour')
            ORDER BY "timestamp" DESC LIMIT 1;
        END LOOP;
        found := found + tstzmultirange(tstzrange(earliest, latest + INTERVAL '168 hours', '[]'));
        after := latest + INTERVAL '169 hours';
    END LOOP;
    RETURN found;
END
$$;

-- Rows outside the hour axis are rare, and extend it by their own hours.
CREATE OR REPLACE FUNCTION extend_feature_hours() RETURNS void LANGUAGE sql AS $$
    INSERT INTO feature_hours
    SELECT hour
    FROM declared_refresh_ranges
    CROSS JOIN LATERAL generate_series(first_hour - INTERVAL '24 hours', end_hour + INTERVAL '24 hours', INTERVAL '1 hour') AS hour
    WHERE first_hour < TIMESTAMPTZ '2015-01-02 00:00+00' OR end_hour > TIMESTAMPTZ '2039-12-30 00:00+00'
    ON CONFLICT DO NOTHING
$$;

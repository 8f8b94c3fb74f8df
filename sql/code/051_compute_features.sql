-- Computes planned rows and stores those that differ from what is known.

DROP FUNCTION IF EXISTS compute_feature_batch(integer);
DROP FUNCTION IF EXISTS compute_feature_batch(integer, integer, integer);

-- Weather older than its retention (a year, and the six hours a row looks back) may be gone.
CREATE OR REPLACE FUNCTION weather_kept_since() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT time_bucket(INTERVAL '1 hour', now() - INTERVAL '1 year') + INTERVAL '7 hours'
$$;

-- Ends the present versions of these hours, all of them in [lowest, highest) and none in the columnstore. An index probe
-- each, whatever statistics say of the newest hour.
CREATE OR REPLACE FUNCTION supersede_recent_versions(
    keys feature_key[], lowest timestamptz, highest timestamptz, stamp timestamptz
)
RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    UPDATE ai_feature_versions AS versions SET superseded_at = stamp
    FROM unnest(keys) AS replaced
    WHERE versions.tenant_id = replaced.tenant_id AND versions.asset_id = replaced.asset_id
        AND versions.hour = replaced.hour AND versions.hour >= lowest AND versions.hour < highest
        AND versions.superseded_at IS NULL AND versions.created_timestamp < stamp;
END
$$;

-- Computes ranges of about `max_rows` rows in all and forgets them, in one transaction. Returns the hours
-- done (0 when nothing is due) and how many rows changed: an unchanged row keeps its created_timestamp. Several
-- sessions at once have each its own assets: two at the same one would meet in its span and in the columnstore.
CREATE FUNCTION compute_feature_batch(
    max_rows integer DEFAULT 20000, session integer DEFAULT 0, sessions integer DEFAULT 1
)
RETURNS TABLE (computed bigint, changed bigint)
LANGUAGE plpgsql
SET enable_mergejoin = off  -- it would merge known rows by asset only, and compare all hours of each
SET plan_cache_mode = force_custom_plan  -- only constants leave chunks out
AS $$
DECLARE
    batch         feature_refresh_ranges[];
    oldest        timestamptz := features_stored_since();
    stamp         timestamptz := feature_stamp();
    -- the batch's hours, and those that they look at: let the planner leave out chunks
    lowest        timestamptz;
    highest       timestamptz;
    earliest      timestamptz;
    latest        timestamptz;
    -- nothing newer is in the columnstore, see its policy
    in_rows       timestamptz := now() - INTERVAL '89 days';
    replaced_rows feature_key[];
    replaced_keys feature_key[];
    replaced      record;
BEGIN
    WITH due AS (
        SELECT ctid AS range, place, extract(epoch FROM end_hour - first_hour) / 3600 AS rows
        FROM feature_refresh_ranges
        WHERE aggregated AND (hashtext(tenant_id || asset_id) & 2147483647) % sessions = session
        ORDER BY place LIMIT max_rows
    ),
    sized AS (
        SELECT *, sum(rows) OVER (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS rows_before FROM due
    ),
    taken AS (  -- by their place on disk: with any other join, statistics of an emptier table make it quadratic
        DELETE FROM feature_refresh_ranges AS ranges
        WHERE ctid = ANY (ARRAY(SELECT range FROM sized WHERE coalesce(rows_before, 0) < max_rows))
        RETURNING ranges.*
    )
    SELECT array_agg(taken::feature_refresh_ranges), sum(extract(epoch FROM end_hour - first_hour) / 3600)::bigint,
        min(first_hour), max(end_hour), min(first_hour) - INTERVAL '168 hours', max(end_hour) - INTERVAL '1 hour'
    INTO batch, computed, lowest, highest, earliest, latest FROM taken;
    IF batch IS NULL THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;

    WITH due AS (
        SELECT
            ranges.*, coalesce(assets.weather_asset_id, ranges.asset_id) AS weather_asset,
            assets.is_amount, assets.unit_factor, assets.interval_seconds
        FROM unnest(batch) AS ranges
        LEFT JOIN assets ON assets.tenant_id = ranges.tenant_id AND assets.asset_id = ranges.asset_id
    ),
    computed_rows AS (
        SELECT due.tenant_id, due.asset_id, features.*
        FROM due
        CROSS JOIN LATERAL features_between(
            due.tenant_id, due.asset_id, due.weather_asset, due.first_hour, due.end_hour, earliest, latest,
            due.is_amount, due.unit_factor, due.interval_seconds
        ) AS features
        WHERE due.end_hour > due.first_hour + INTERVAL '1 hour'
        UNION ALL  -- single hours, which most are: windows would cost as much as reading them
        SELECT
            due.tenant_id, due.asset_id, due.first_hour,
            features.historical_avg_24h, features.historical_std_24h,
            features.historical_min_24h, features.historical_max_24h,
            features.lag_1h, features.lag_24h, features.lag_168h,
            features.temperature, features.humidity, features.solar_irradiance
        FROM due
        CROSS JOIN LATERAL features_at(
            due.tenant_id, due.asset_id, due.weather_asset, due.first_hour,
            due.is_amount, due.unit_factor, due.interval_seconds, earliest, latest
        ) AS features
        WHERE due.end_hour = due.first_hour + INTERVAL '1 hour'
    ),
    known AS (
        SELECT present.*
        FROM unnest(batch) AS ranges
        CROSS JOIN LATERAL (
            SELECT * FROM ai_feature_versions AS versions
            WHERE versions.tenant_id = ranges.tenant_id AND versions.asset_id = ranges.asset_id
                AND versions.hour >= ranges.first_hour AND versions.hour < ranges.end_hour
                AND versions.hour >= lowest AND versions.hour < highest AND versions.superseded_at IS NULL
            OFFSET 0  -- an index probe each: the statistics do not know the newest hour, and would have all of it read
        ) AS present
    ),
    fresh AS (
        SELECT
            rows.hour, rows.tenant_id, rows.asset_id,
            rows.historical_avg_24h, rows.historical_std_24h, rows.historical_min_24h, rows.historical_max_24h,
            rows.lag_1h, rows.lag_24h, rows.lag_168h,
            coalesce(rows.temperature, remembered.temperature) AS temperature,
            coalesce(rows.humidity, remembered.humidity) AS humidity,
            coalesce(rows.solar_irradiance, remembered.solar_irradiance) AS solar_irradiance
        FROM computed_rows AS rows
        LEFT JOIN known AS remembered
            ON remembered.tenant_id = rows.tenant_id AND remembered.asset_id = rows.asset_id
            AND remembered.hour = rows.hour AND remembered.hour < weather_kept_since()
    ),
    differing AS (
        SELECT fresh.*, known.hour IS NOT NULL AS replaces
        FROM fresh
        LEFT JOIN known ON known.tenant_id = fresh.tenant_id AND known.asset_id = fresh.asset_id AND known.hour = fresh.hour
        WHERE known.hour IS NULL
            OR (
                known.historical_avg_24h, known.historical_std_24h, known.historical_min_24h, known.historical_max_24h,
                known.lag_1h, known.lag_24h, known.lag_168h, known.temperature, known.humidity, known.solar_irradiance
            ) IS DISTINCT FROM (
                fresh.historical_avg_24h, fresh.historical_std_24h, fresh.historical_min_24h, fresh.historical_max_24h,
                fresh.lag_1h, fresh.lag_24h, fresh.lag_168h, fresh.temperature, fresh.humidity, fresh.solar_irradiance
            )
    ),
    versioned AS (
        INSERT INTO ai_feature_versions (
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
        )
        SELECT
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, stamp
        FROM differing
    ),
    stored AS (
        INSERT INTO ai_features (
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
        )
        SELECT
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, stamp
        FROM differing
        WHERE hour >= oldest
        ON CONFLICT (tenant_id, asset_id, hour) DO UPDATE SET
            historical_avg_24h = excluded.historical_avg_24h,
            historical_std_24h = excluded.historical_std_24h,
            historical_min_24h = excluded.historical_min_24h,
            historical_max_24h = excluded.historical_max_24h,
            lag_1h = excluded.lag_1h,
            lag_24h = excluded.lag_24h,
            lag_168h = excluded.lag_168h,
            temperature = excluded.temperature,
            humidity = excluded.humidity,
            solar_irradiance = excluded.solar_irradiance,
            created_timestamp = excluded.created_timestamp
    )
    SELECT
        count(*),
        array_agg(ROW (tenant_id, asset_id, hour)::feature_key) FILTER (WHERE replaces AND hour >= in_rows),
        array_agg(ROW (tenant_id, asset_id, hour)::feature_key) FILTER (WHERE replaces AND hour < in_rows)
    INTO changed, replaced_rows, replaced_keys FROM differing;

    IF replaced_rows IS NOT NULL THEN
        PERFORM supersede_recent_versions(replaced_rows, greatest(lowest, in_rows), highest, stamp);
    END IF;

    FOR replaced IN
        SELECT tenant_id, asset_id, array_agg(hour ORDER BY hour) AS hours FROM unnest(replaced_keys)
        GROUP BY tenant_id, asset_id
    LOOP
        PERFORM supersede_feature_versions(replaced.tenant_id, replaced.asset_id, replaced.hours, stamp);
    END LOOP;

    -- last, because it locks the spans against writers of new readings; sorted, as they lock them
    PERFORM FROM asset_spans AS spans
    JOIN (SELECT DISTINCT tenant_id, asset_id FROM unnest(batch)) AS done USING (tenant_id, asset_id)
    ORDER BY spans.tenant_id, spans.asset_id FOR NO KEY UPDATE OF spans;
    UPDATE asset_spans AS spans SET stored = spans.stored + done.hours
    FROM (
        SELECT tenant_id, asset_id, range_agg(tstzrange(first_hour, end_hour)) AS hours
        FROM unnest(batch) GROUP BY tenant_id, asset_id
    ) AS done
    WHERE spans.tenant_id = done.tenant_id AND spans.asset_id = done.asset_id AND NOT spans.stored @> done.hours;
    RETURN NEXT;
END
$$;

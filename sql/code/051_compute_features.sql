-- Computes planned rows and stores those that differ from what is known.

DROP FUNCTION IF EXISTS compute_feature_batch(integer);

-- Computes ranges of about `max_rows` rows in all and forgets them, in one transaction. Returns the hours
-- done (0 when nothing is due) and how many rows changed: an unchanged row keeps its created_timestamp.
CREATE FUNCTION compute_feature_batch(max_rows integer DEFAULT 20000)
RETURNS TABLE (computed bigint, changed bigint)
LANGUAGE plpgsql AS $$
DECLARE
    batch   feature_refresh_ranges[];
    oldest  timestamptz := features_stored_since();
    stamp   timestamptz := clock_timestamp();
    -- let the planner leave out chunks
    lowest  timestamptz;
    highest timestamptz;
BEGIN
    WITH due AS (
        SELECT tenant_id, asset_id, first_hour, place, extract(epoch FROM end_hour - first_hour) / 3600 AS rows
        FROM feature_refresh_ranges WHERE aggregated ORDER BY place LIMIT max_rows
    ),
    sized AS (
        SELECT *, sum(rows) OVER (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS rows_before FROM due
    ),
    taken AS (
        DELETE FROM feature_refresh_ranges AS ranges USING sized
        WHERE ranges.tenant_id = sized.tenant_id AND ranges.asset_id = sized.asset_id
            AND ranges.first_hour = sized.first_hour AND coalesce(sized.rows_before, 0) < max_rows
        RETURNING ranges.*
    )
    SELECT array_agg(taken::feature_refresh_ranges), sum(extract(epoch FROM end_hour - first_hour) / 3600)::bigint,
        min(first_hour), max(end_hour)
    INTO batch, computed, lowest, highest FROM taken;
    IF batch IS NULL THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;

    WITH fresh AS (
        SELECT ranges.tenant_id, ranges.asset_id, features.*
        FROM unnest(batch) AS ranges
        LEFT JOIN assets ON assets.tenant_id = ranges.tenant_id AND assets.asset_id = ranges.asset_id
        CROSS JOIN LATERAL features_between(
            ranges.tenant_id, ranges.asset_id, coalesce(assets.weather_asset_id, ranges.asset_id),
            ranges.first_hour, ranges.end_hour
        ) AS features
    ),
    known AS (
        SELECT DISTINCT ON (versions.tenant_id, versions.asset_id, versions.hour) versions.*
        FROM unnest(batch) AS ranges
        JOIN ai_feature_versions AS versions
            ON versions.tenant_id = ranges.tenant_id AND versions.asset_id = ranges.asset_id
            AND versions.hour >= ranges.first_hour AND versions.hour < ranges.end_hour
        WHERE versions.hour >= lowest AND versions.hour < highest
        ORDER BY versions.tenant_id, versions.asset_id, versions.hour, versions.created_timestamp DESC
    ),
    added AS (
        INSERT INTO ai_feature_versions AS versions (
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
        )
        SELECT
            fresh.hour, fresh.tenant_id, fresh.asset_id,
            fresh.historical_avg_24h, fresh.historical_std_24h, fresh.historical_min_24h, fresh.historical_max_24h,
            fresh.lag_1h, fresh.lag_24h, fresh.lag_168h, fresh.temperature, fresh.humidity, fresh.solar_irradiance, stamp
        FROM fresh
        LEFT JOIN known ON known.tenant_id = fresh.tenant_id AND known.asset_id = fresh.asset_id AND known.hour = fresh.hour
        WHERE known.is_deleted IS NOT FALSE
            OR (
                known.historical_avg_24h, known.historical_std_24h, known.historical_min_24h, known.historical_max_24h,
                known.lag_1h, known.lag_24h, known.lag_168h, known.temperature, known.humidity, known.solar_irradiance
            ) IS DISTINCT FROM (
                fresh.historical_avg_24h, fresh.historical_std_24h, fresh.historical_min_24h, fresh.historical_max_24h,
                fresh.lag_1h, fresh.lag_24h, fresh.lag_168h, fresh.temperature, fresh.humidity, fresh.solar_irradiance
            )
        RETURNING versions.*
    ),
    stored AS (
        INSERT INTO ai_features (
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
        )
        SELECT
            hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
            lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
        FROM added
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
    SELECT count(*) INTO changed FROM added;

    -- last, because it locks the spans against writers of new readings
    UPDATE asset_spans AS spans SET
        stored_from = least(spans.stored_from, ranges.first_hour),
        stored_through = greatest(spans.stored_through, ranges.last_hour)
    FROM (
        SELECT tenant_id, asset_id, min(first_hour) AS first_hour, max(end_hour) - INTERVAL '1 hour' AS last_hour
        FROM unnest(batch) GROUP BY tenant_id, asset_id
    ) AS ranges
    WHERE spans.tenant_id = ranges.tenant_id AND spans.asset_id = ranges.asset_id
        AND (
            spans.stored_from IS NULL OR spans.stored_from > ranges.first_hour OR spans.stored_through < ranges.last_hour
        );
    RETURN NEXT;
END
$$;

-- Bringing ai_features up to date for what changed. Order matters: changes are planned first, then the
-- aggregates are refreshed, then the planned rows are computed; so a computed row has seen at least the
-- changes that planned it. Every step commits and can be repeated: a killed refresh is taken up by the next.

-- Turns queued changes, and hours that have begun since the last plan, into ranges of rows to compute.
-- With `since`, every row from then on is planned. Returns the number of hours planned.
CREATE OR REPLACE FUNCTION plan_feature_refresh(since timestamptz DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    this_hour timestamptz := time_bucket(INTERVAL '1 hour', now());
    oldest    timestamptz := features_stored_since();
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
    )
    INSERT INTO feature_refresh_ranges (tenant_id, asset_id, first_hour, end_hour)
    SELECT tenant_id, asset_id, lower(part), upper(part)
    FROM (
        SELECT
            tenant_id, asset_id,
            unnest(range_agg(tstzrange(greatest(first_hour, first_row, oldest), least(end_hour, last_row + INTERVAL '1 hour')))) AS part
        FROM touched
        JOIN spans USING (tenant_id, asset_id)
        WHERE greatest(first_hour, first_row, oldest) < least(end_hour, last_row + INTERVAL '1 hour')
        GROUP BY tenant_id, asset_id
    ) AS merged;

    RETURN (SELECT coalesce(sum(extract(epoch FROM end_hour - first_hour) / 3600), 0) FROM feature_refresh_ranges);
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
        DELETE FROM ai_features WHERE tenant_id = tenant AND asset_id = asset;
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
    DELETE FROM ai_features
    WHERE tenant_id = tenant AND asset_id = asset AND (hour <= first OR hour > last + INTERVAL '24 hours');
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

-- Computes planned ranges of about `max_rows` rows in all and forgets them. Returns the hours done; 0 when
-- nothing is planned. A row whose values are unchanged keeps its created_timestamp.
CREATE OR REPLACE FUNCTION compute_feature_batch(max_rows integer DEFAULT 20000) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    batch feature_refresh_ranges[];
    done  bigint;
BEGIN
    WITH sized AS (
        SELECT
            tenant_id, asset_id, first_hour,
            sum(extract(epoch FROM end_hour - first_hour) / 3600) OVER earlier AS rows_before
        FROM feature_refresh_ranges
        WINDOW earlier AS (
            ORDER BY tenant_id, asset_id, first_hour ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    ),
    taken AS (
        DELETE FROM feature_refresh_ranges AS ranges USING sized
        WHERE ranges.tenant_id = sized.tenant_id AND ranges.asset_id = sized.asset_id
            AND ranges.first_hour = sized.first_hour AND coalesce(sized.rows_before, 0) < max_rows
        RETURNING ranges.*
    )
    SELECT array_agg(taken::feature_refresh_ranges), sum(extract(epoch FROM end_hour - first_hour) / 3600)
    INTO batch, done FROM taken;
    IF batch IS NULL THEN
        RETURN 0;
    END IF;

    INSERT INTO ai_features AS stored (
        hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
        lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
    )
    SELECT
        hours.hour, ranges.tenant_id, ranges.asset_id, features.historical_avg_24h, features.historical_std_24h,
        features.historical_min_24h, features.historical_max_24h, features.lag_1h, features.lag_24h, features.lag_168h,
        features.temperature, features.humidity, features.solar_irradiance, now()
    FROM unnest(batch) AS ranges
    JOIN feature_hours AS hours ON hours.hour >= ranges.first_hour AND hours.hour < ranges.end_hour
    LEFT JOIN assets ON assets.tenant_id = ranges.tenant_id AND assets.asset_id = ranges.asset_id
    CROSS JOIN LATERAL features_at(
        ranges.tenant_id, ranges.asset_id, coalesce(assets.weather_asset_id, ranges.asset_id), hours.hour
    ) AS features
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
    WHERE (
        stored.historical_avg_24h, stored.historical_std_24h, stored.historical_min_24h, stored.historical_max_24h,
        stored.lag_1h, stored.lag_24h, stored.lag_168h, stored.temperature, stored.humidity, stored.solar_irradiance
    ) IS DISTINCT FROM (
        excluded.historical_avg_24h, excluded.historical_std_24h, excluded.historical_min_24h, excluded.historical_max_24h,
        excluded.lag_1h, excluded.lag_24h, excluded.lag_168h, excluded.temperature, excluded.humidity, excluded.solar_irradiance
    );

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
    RETURN done;
END
$$;

-- One refresh at a time: two could store an older value over a newer one.
CREATE OR REPLACE FUNCTION feature_refresh_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 7236451180 $$;

-- The whole refresh in one call. Skips when another one runs, whose successor will do the work.
CREATE OR REPLACE PROCEDURE refresh_features(since timestamptz DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_lock(feature_refresh_lock()) THEN
        RAISE NOTICE 'another feature refresh is running';
        RETURN;
    END IF;
    PERFORM plan_feature_refresh(since);
    COMMIT;
    CALL refresh_feature_aggregates(since);
    LOOP
        EXIT WHEN compute_feature_batch() = 0;
        COMMIT;
    END LOOP;
    PERFORM pg_advisory_unlock(feature_refresh_lock());
END
$$;

-- Materializes invalidated buckets up to the running hour and day; from `since` on, all of them.
CREATE OR REPLACE PROCEDURE refresh_feature_aggregates(since timestamptz DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
    -- separate ranges stay separate: by default more than ten are merged into one that spans the history
    PERFORM set_config('timescaledb.materializations_per_refresh_window', '1000', false);
    CALL refresh_continuous_aggregate(
        'hourly_features', since, time_bucket(INTERVAL '1 hour', now()), force => since IS NOT NULL
    );
    COMMIT;  -- the daily aggregate sees what the hourly one invalidated only after this
    CALL refresh_continuous_aggregate(
        'daily_features', time_bucket(INTERVAL '1 day', since), time_bucket(INTERVAL '1 day', now()),
        force => since IS NOT NULL
    );
END
$$;

CREATE OR REPLACE PROCEDURE refresh_features_job(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
BEGIN
    CALL refresh_features();
END
$$;

SELECT add_job('refresh_features_job', INTERVAL '5 minutes')
WHERE NOT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_name = 'refresh_features_job');

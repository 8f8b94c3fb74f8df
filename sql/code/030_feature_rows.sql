-- What a feature row is: the one definition that refreshes store and views compute from.

DROP VIEW IF EXISTS forecast_basic_features, forecast_advanced_features, anomaly_detection_features;
DROP VIEW IF EXISTS
    forecast_basic_feature_versions, forecast_advanced_feature_versions, anomaly_detection_feature_versions;
DROP VIEW IF EXISTS dated_feature_rows, dated_feature_versions;
DROP VIEW IF EXISTS feature_rows, computed_features, feature_keys;
DROP FUNCTION IF EXISTS features_at(text, text, text, timestamptz);
DROP FUNCTION IF EXISTS features_at(text, text, text, timestamptz, boolean, double precision, integer);
DROP FUNCTION IF EXISTS features_at(
    text, text, text, timestamptz, boolean, double precision, integer, timestamptz, timestamptz
);
DROP FUNCTION IF EXISTS features_between(
    text, text, text, timestamptz, timestamptz, timestamptz, timestamptz, boolean, double precision, integer
);
DROP FUNCTION IF EXISTS features_between(text, text, text, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS features_between(text, text, text, timestamptz, timestamptz, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS weather_at(text, text, timestamptz);
DROP FUNCTION IF EXISTS weather_at(text, text, timestamptz, timestamptz, timestamptz);

-- Rows before this hour may have been dropped by the retention of ai_features (90 days).
CREATE OR REPLACE FUNCTION features_stored_since() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT time_bucket(INTERVAL '1 hour', now() - INTERVAL '90 days')
$$;

-- The time by which versions are told apart: the clock's, but never before the last refresh, should it be put back.
CREATE OR REPLACE FUNCTION feature_stamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT greatest(
        clock_timestamp(),
        (SELECT finished_at FROM feature_refreshes ORDER BY refresh_id DESC LIMIT 1) + INTERVAL '1 microsecond'
    )
$$;

-- Ranges of an asset's rows that no refresh has stored. In each period rows exist from the hour after its first
-- reading until 24 hours after its last. Not inlined: the planner would expect a hundred ranges, and meet all hours.
CREATE OR REPLACE FUNCTION unstored_rows(periods tstzmultirange, stored tstzmultirange)
RETURNS TABLE (first_hour timestamptz, end_hour timestamptz) LANGUAGE plpgsql STABLE ROWS 2 AS $$
BEGIN
    RETURN QUERY
    SELECT lower(missing), upper(missing)
    FROM unnest((
        SELECT range_agg(tstzrange(lower(period) + INTERVAL '1 hour', upper(period) - INTERVAL '143 hours'))
        FROM unnest(periods) AS period
    ) - stored) AS missing;
END
$$;

-- Rows that exist by now and are not stored yet.
CREATE VIEW feature_keys AS
SELECT spans.tenant_id, spans.asset_id, hours.hour
FROM asset_spans AS spans
CROSS JOIN LATERAL unstored_rows(spans.periods, spans.stored) AS missing
JOIN feature_hours AS hours ON hours.hour >= missing.first_hour AND hours.hour < missing.end_hour
WHERE hours.hour <= now()
    -- of most assets every row is stored, which this tells sooner
    AND NOT spans.stored @> tstzrange(
        lower(spans.periods) + INTERVAL '1 hour',
        greatest(
            lower(spans.periods) + INTERVAL '1 hour',
            least(upper(spans.periods) - INTERVAL '143 hours', time_bucket(INTERVAL '1 hour', now()) + INTERVAL '1 hour')
        )
    );

-- Weather of one row: of each variable the newest value that is valid at the hour or up to six hours before it, and was
-- available by then: a forecast for the hour if one was issued in time, else the latest observation. Most rows have every
-- variable, so only where the newest one does not are the others read. All of a query's weather lies in
-- (earliest, latest], see features_between().
CREATE FUNCTION weather_at(
    tenant text, weather_asset text, at_hour timestamptz, earliest timestamptz, latest timestamptz
)
RETURNS TABLE (
    temperature double precision, humidity double precision, solar_irradiance double precision,
    ingested_at timestamptz
)
LANGUAGE sql STABLE AS $$
    SELECT
        coalesce(newest.temperature, earlier.temperature),
        coalesce(newest.humidity, earlier.humidity),
        coalesce(newest.solar_irradiance, earlier.solar_irradiance),
        greatest(newest.ingested_at, earlier.ingested_at)
    FROM (
        SELECT temperature, humidity, solar_irradiance, ingested_at
        FROM weather_features
        WHERE tenant_id = tenant AND asset_id = weather_asset
            AND "timestamp" <= at_hour AND "timestamp" > (SELECT at_hour - INTERVAL '6 hours')
            AND "timestamp" <= latest AND "timestamp" > earliest
            AND available_at <= at_hour
        ORDER BY "timestamp" DESC, available_at DESC
        LIMIT 1
    ) AS newest
    LEFT JOIN LATERAL (
        SELECT
            (array_agg(temperature ORDER BY "timestamp" DESC, available_at DESC) FILTER (WHERE temperature IS NOT NULL))[1]
                AS temperature,
            (array_agg(humidity ORDER BY "timestamp" DESC, available_at DESC) FILTER (WHERE humidity IS NOT NULL))[1]
                AS humidity,
            (array_agg(solar_irradiance ORDER BY "timestamp" DESC, available_at DESC)
                FILTER (WHERE solar_irradiance IS NOT NULL))[1] AS solar_irradiance,
            max(ingested_at) AS ingested_at
        FROM weather_features
        WHERE tenant_id = tenant AND asset_id = weather_asset
            AND "timestamp" <= at_hour AND "timestamp" > (SELECT at_hour - INTERVAL '6 hours')
            AND "timestamp" <= latest AND "timestamp" > earliest
            AND available_at <= at_hour
            AND (newest.temperature IS NULL OR newest.humidity IS NULL OR newest.solar_irradiance IS NULL)
    ) AS earlier ON true
$$;

-- The features of one row, inlined by the planner into every query that computes single rows.
-- Windows and lags are by time, over hours as hour_value() makes them. Buckets before the row's hour hold only readings before it. States merge
-- in the order of time, here and in features_between(), so that both give the same bits. Bounds are subqueries,
-- because the wall between tenants lets no calculation reach an index (070_tenant_wall.sql), but its result.
-- A query of many rows says what they all read, [earliest, latest), see features_between().
CREATE FUNCTION features_at(
    tenant text, asset text, weather_asset text, at_hour timestamptz,
    is_amount boolean DEFAULT NULL, factor double precision DEFAULT NULL, interval_seconds integer DEFAULT NULL,
    earliest timestamptz DEFAULT '-infinity', latest timestamptz DEFAULT 'infinity'
)
RETURNS TABLE (
    historical_avg_24h double precision, historical_std_24h double precision,
    historical_min_24h double precision, historical_max_24h double precision,
    lag_1h double precision, lag_24h double precision, lag_168h double precision,
    temperature double precision, humidity double precision, solar_irradiance double precision,
    ingested_at timestamptz
)
LANGUAGE sql STABLE AS $$
    SELECT
        float8_avg(day.stats),
        float8_stddev_samp(day.stats),
        day.min_value,
        day.max_value,
        day.lag_1h,
        day.lag_24h,
        week.value,
        weather.temperature,
        weather.humidity,
        weather.solar_irradiance,
        greatest(day.ingested_at, week.last_ingested_at, weather.ingested_at)
    FROM (
        SELECT
            stats_merge(hours.stats ORDER BY hour) AS stats,
            min(hours.least_value) AS min_value,
            max(hours.greatest_value) AS max_value,
            min(hours.value) FILTER (WHERE hour = at_hour - INTERVAL '1 hour') AS lag_1h,
            min(hours.value) FILTER (WHERE hour = at_hour - INTERVAL '24 hours') AS lag_24h,
            max(last_ingested_at) AS ingested_at
        FROM hourly_state AS hourly
        CROSS JOIN LATERAL hour_value(
            is_amount, factor, interval_seconds, hourly.avg_value, hourly.min_value, hourly.max_value,
            hourly.value_stats, hourly.known_seconds, hourly.unknown_count, hourly.value_seconds
        ) AS hours
        WHERE tenant_id = tenant AND asset_id = asset
            AND hour >= (SELECT at_hour - INTERVAL '24 hours') AND hour < at_hour
            AND hour >= earliest AND hour < latest
    ) AS day
    CROSS JOIN (
        SELECT min(hours.value) AS value, max(last_ingested_at) AS last_ingested_at
        FROM hourly_state AS hourly
        CROSS JOIN LATERAL hour_value(
            is_amount, factor, interval_seconds, hourly.avg_value, hourly.min_value, hourly.max_value,
            hourly.value_stats, hourly.known_seconds, hourly.unknown_count, hourly.value_seconds
        ) AS hours
        WHERE tenant_id = tenant AND asset_id = asset AND hour = (SELECT at_hour - INTERVAL '168 hours')
            AND hour >= earliest AND hour < latest
    ) AS week
    LEFT JOIN weather_at(tenant, weather_asset, at_hour, at_hour - INTERVAL '6 hours', at_hour) AS weather ON true
$$;

-- The same for every hour in [first_hour, end_hour) of one asset, in one pass over its hourly state. All that a
-- query reads, from a week before the first hour to the last hour, lies in [earliest, latest): plain constants, so
-- that the planner leaves chunks out, and the readings where all of it is materialized.
CREATE FUNCTION features_between(
    tenant text, asset text, weather_asset text, first_hour timestamptz, end_hour timestamptz,
    earliest timestamptz, latest timestamptz,
    is_amount boolean DEFAULT NULL, factor double precision DEFAULT NULL, interval_seconds integer DEFAULT NULL
)
RETURNS TABLE (
    hour timestamptz,
    historical_avg_24h double precision, historical_std_24h double precision,
    historical_min_24h double precision, historical_max_24h double precision,
    lag_1h double precision, lag_24h double precision, lag_168h double precision,
    temperature double precision, humidity double precision, solar_irradiance double precision
)
LANGUAGE sql STABLE AS $$
    SELECT
        day.hour,
        float8_avg(day.stats),
        float8_stddev_samp(day.stats),
        day.min_value,
        day.max_value,
        day.lag_1h,
        day.lag_24h,
        week.value,
        weather.temperature,
        weather.humidity,
        weather.solar_irradiance
    FROM (
        SELECT
            hours.hour,
            stats_merge(hourly.stats) OVER last_day AS stats,
            min(hourly.least_value) OVER last_day AS min_value,
            max(hourly.greatest_value) OVER last_day AS max_value,
            min(hourly.value) OVER hour_before AS lag_1h,
            min(hourly.value) OVER day_before AS lag_24h
        FROM feature_hours AS hours
        LEFT JOIN (
            SELECT state.hour, meaning.*
            FROM hourly_features AS state
            CROSS JOIN LATERAL hour_value(
                is_amount, factor, interval_seconds, state.avg_value, state.min_value, state.max_value,
                state.value_stats, state.known_seconds, state.unknown_count, state.value_seconds
            ) AS meaning
            WHERE state.tenant_id = tenant AND state.asset_id = asset
                AND state.hour >= first_hour - INTERVAL '24 hours' AND state.hour < end_hour - INTERVAL '1 hour'
                AND state.hour >= earliest AND state.hour < latest
        ) AS hourly ON hourly.hour = hours.hour
        WHERE hours.hour >= first_hour - INTERVAL '24 hours' AND hours.hour < end_hour
        WINDOW
            last_day AS (ORDER BY hours.hour RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND INTERVAL '1 hour' PRECEDING),
            hour_before AS (ORDER BY hours.hour RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND INTERVAL '1 hour' PRECEDING),
            day_before AS (ORDER BY hours.hour RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND INTERVAL '24 hours' PRECEDING)
    ) AS day
    LEFT JOIN (
        SELECT state.hour, meaning.value
        FROM hourly_features AS state
        CROSS JOIN LATERAL hour_value(
            is_amount, factor, interval_seconds, state.avg_value, state.min_value, state.max_value,
            state.value_stats, state.known_seconds, state.unknown_count, state.value_seconds
        ) AS meaning
        WHERE state.tenant_id = tenant AND state.asset_id = asset
            AND state.hour >= first_hour - INTERVAL '168 hours' AND state.hour < end_hour - INTERVAL '168 hours'
            AND state.hour >= earliest AND state.hour < latest
    ) AS week ON week.hour = day.hour - INTERVAL '168 hours'
    LEFT JOIN LATERAL weather_at(tenant, weather_asset, day.hour, earliest, latest) AS weather ON true
    WHERE day.hour >= first_hour
$$;

CREATE VIEW computed_features AS
SELECT
    keys.hour,
    keys.tenant_id,
    keys.asset_id,
    features.historical_avg_24h,
    features.historical_std_24h,
    features.historical_min_24h,
    features.historical_max_24h,
    features.lag_1h,
    features.lag_24h,
    features.lag_168h,
    features.temperature,
    features.humidity,
    features.solar_irradiance,
    coalesce(features.ingested_at, keys.hour) AS created_timestamp
FROM feature_keys AS keys
LEFT JOIN assets ON assets.tenant_id = keys.tenant_id AND assets.asset_id = keys.asset_id
CROSS JOIN LATERAL features_at(
    keys.tenant_id, keys.asset_id, coalesce(assets.weather_asset_id, keys.asset_id), keys.hour,
    assets.is_amount, assets.unit_factor, assets.interval_seconds
) AS features;

-- Every row once: from ai_features as far as its retention goes, older ones from their present version, and
-- those that no refresh has stored yet computed on the fly.
CREATE VIEW feature_rows AS
SELECT
    hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
    lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
FROM ai_features
WHERE hour >= features_stored_since()
UNION ALL
SELECT
    hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
    lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
FROM ai_feature_versions
WHERE hour < features_stored_since() AND superseded_at IS NULL
UNION ALL
SELECT
    hour, tenant_id, asset_id, historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,
    lag_1h, lag_24h, lag_168h, temperature, humidity, solar_irradiance, created_timestamp
FROM computed_features;

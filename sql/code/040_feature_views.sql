-- What Feast reads: one view a feature service, and one with every version of its rows. Calendar features
-- follow the asset's own time zone; day_of_week counts from Monday = 0.

CREATE OR REPLACE FUNCTION calendar_at(at_hour timestamptz, timezone text)
RETURNS TABLE (hour_of_day integer, day_of_week integer, day_of_month integer, month integer, is_weekend integer)
LANGUAGE sql STABLE AS $$
    SELECT
        extract(hour FROM local.time)::integer,
        extract(isodow FROM local.time)::integer - 1,
        extract(day FROM local.time)::integer,
        extract(month FROM local.time)::integer,
        (extract(isodow FROM local.time) >= 6)::integer
    FROM (SELECT at_hour AT TIME ZONE timezone AS time) AS local
$$;

CREATE VIEW dated_feature_rows AS
SELECT rows.hour AS event_timestamp, rows.*, calendar.*, zone.timezone
FROM feature_rows AS rows
LEFT JOIN assets ON assets.tenant_id = rows.tenant_id AND assets.asset_id = rows.asset_id
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS zone
CROSS JOIN LATERAL calendar_at(rows.hour, zone.timezone) AS calendar;

CREATE VIEW dated_feature_versions AS
SELECT versions.hour AS event_timestamp, versions.*, calendar.*, zone.timezone
FROM ai_feature_versions AS versions
LEFT JOIN assets ON assets.tenant_id = versions.tenant_id AND assets.asset_id = versions.asset_id
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS zone
CROSS JOIN LATERAL calendar_at(versions.hour, zone.timezone) AS calendar;

CREATE VIEW forecast_basic_features AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, is_weekend,
    historical_avg_24h, lag_1h, lag_24h,
    timezone, created_timestamp
FROM dated_feature_rows;

CREATE VIEW forecast_basic_feature_versions AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, is_weekend,
    historical_avg_24h, lag_1h, lag_24h,
    timezone, created_timestamp, superseded_at
FROM dated_feature_versions;

CREATE VIEW forecast_advanced_features AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, day_of_month, month, is_weekend,
    historical_avg_24h, historical_std_24h, lag_1h, lag_24h, lag_168h,
    temperature, humidity, solar_irradiance,
    timezone, created_timestamp
FROM dated_feature_rows;

CREATE VIEW forecast_advanced_feature_versions AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, day_of_month, month, is_weekend,
    historical_avg_24h, historical_std_24h, lag_1h, lag_24h, lag_168h,
    temperature, humidity, solar_irradiance,
    timezone, created_timestamp, superseded_at
FROM dated_feature_versions;

CREATE VIEW anomaly_detection_features AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week,
    historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h, lag_1h,
    timezone, created_timestamp
FROM dated_feature_rows;

CREATE VIEW anomaly_detection_feature_versions AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week,
    historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h, lag_1h,
    timezone, created_timestamp, superseded_at
FROM dated_feature_versions;

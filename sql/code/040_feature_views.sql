-- What Feast reads: one view a feature service. Calendar features follow the asset's own time zone;
-- day_of_week counts from Monday = 0.

CREATE VIEW forecast_basic_features AS
SELECT
    rows.hour AS event_timestamp,
    rows.tenant_id,
    rows.asset_id,
    extract(hour FROM local.time)::integer AS hour_of_day,
    extract(isodow FROM local.time)::integer - 1 AS day_of_week,
    (extract(isodow FROM local.time) >= 6)::integer AS is_weekend,
    rows.historical_avg_24h,
    rows.lag_1h,
    rows.lag_24h,
    zone.timezone,
    rows.created_timestamp
FROM feature_rows AS rows
LEFT JOIN assets ON assets.tenant_id = rows.tenant_id AND assets.asset_id = rows.asset_id
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS zone
CROSS JOIN LATERAL (SELECT rows.hour AT TIME ZONE zone.timezone AS time) AS local;

CREATE VIEW forecast_advanced_features AS
SELECT
    rows.hour AS event_timestamp,
    rows.tenant_id,
    rows.asset_id,
    extract(hour FROM local.time)::integer AS hour_of_day,
    extract(isodow FROM local.time)::integer - 1 AS day_of_week,
    extract(day FROM local.time)::integer AS day_of_month,
    extract(month FROM local.time)::integer AS month,
    (extract(isodow FROM local.time) >= 6)::integer AS is_weekend,
    rows.historical_avg_24h,
    rows.historical_std_24h,
    rows.lag_1h,
    rows.lag_24h,
    rows.lag_168h,
    rows.temperature,
    rows.humidity,
    rows.solar_irradiance,
    zone.timezone,
    rows.created_timestamp
FROM feature_rows AS rows
LEFT JOIN assets ON assets.tenant_id = rows.tenant_id AND assets.asset_id = rows.asset_id
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS zone
CROSS JOIN LATERAL (SELECT rows.hour AT TIME ZONE zone.timezone AS time) AS local;

CREATE VIEW anomaly_detection_features AS
SELECT
    rows.hour AS event_timestamp,
    rows.tenant_id,
    rows.asset_id,
    extract(hour FROM local.time)::integer AS hour_of_day,
    extract(isodow FROM local.time)::integer - 1 AS day_of_week,
    rows.historical_avg_24h,
    rows.historical_std_24h,
    rows.historical_min_24h,
    rows.historical_max_24h,
    rows.lag_1h,
    zone.timezone,
    rows.created_timestamp
FROM feature_rows AS rows
LEFT JOIN assets ON assets.tenant_id = rows.tenant_id AND assets.asset_id = rows.asset_id
CROSS JOIN LATERAL (SELECT coalesce(assets.timezone, 'UTC') AS timezone) AS zone
CROSS JOIN LATERAL (SELECT rows.hour AT TIME ZONE zone.timezone AS time) AS local;

-- A view of each feature service's features, and one with every version of its rows: columns of the declared view
-- ai_features, which `ai-hub migrate` makes before these. Calendar features follow the asset's own time zone;
-- day_of_week counts from Monday = 0.

CREATE VIEW forecast_basic_features AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, is_weekend,
    historical_avg_24h, lag_1h, lag_24h,
    coalesce(timezone, 'UTC') AS timezone, created_timestamp
FROM ai_features;

CREATE VIEW forecast_basic_feature_versions AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, is_weekend,
    historical_avg_24h, lag_1h, lag_24h,
    coalesce(timezone, 'UTC') AS timezone, created_timestamp, superseded_at
FROM ai_features_versions;

CREATE VIEW forecast_advanced_features AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, day_of_month, month, is_weekend,
    historical_avg_24h, historical_std_24h, lag_1h, lag_24h, lag_168h,
    temperature, humidity, solar_irradiance,
    coalesce(timezone, 'UTC') AS timezone, created_timestamp
FROM ai_features;

CREATE VIEW forecast_advanced_feature_versions AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week, day_of_month, month, is_weekend,
    historical_avg_24h, historical_std_24h, lag_1h, lag_24h, lag_168h,
    temperature, humidity, solar_irradiance,
    coalesce(timezone, 'UTC') AS timezone, created_timestamp, superseded_at
FROM ai_features_versions;

CREATE VIEW anomaly_detection_features AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week,
    historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h, lag_1h,
    coalesce(timezone, 'UTC') AS timezone, created_timestamp
FROM ai_features;

CREATE VIEW anomaly_detection_feature_versions AS
SELECT
    event_timestamp, tenant_id, asset_id,
    hour_of_day, day_of_week,
    historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h, lag_1h,
    coalesce(timezone, 'UTC') AS timezone, created_timestamp, superseded_at
FROM ai_features_versions;

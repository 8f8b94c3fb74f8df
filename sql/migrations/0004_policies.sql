-- Compression, retention and refresh. Scheduled jobs fire where background workers run.

ALTER TABLE timeseries_data SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'tenant_id, asset_id',
    timescaledb.orderby = '"timestamp"'
);
CALL add_columnstore_policy('timeseries_data', after => INTERVAL '60 days');

SELECT add_retention_policy('weather_features', INTERVAL '1 year');
SELECT add_retention_policy('ai_features', INTERVAL '90 days');

-- No start offset: a late reading of any age invalidates its own hours only, and only those are redone.
SELECT add_continuous_aggregate_policy(
    'hourly_features', start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '15 minutes'
);
SELECT add_continuous_aggregate_policy(
    'daily_features', start_offset => NULL, end_offset => INTERVAL '1 day', schedule_interval => INTERVAL '1 hour'
);

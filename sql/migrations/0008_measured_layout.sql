-- What measuring the layouts recommended; questions, plans and numbers are in docs/database.md.

-- An hour of all assets is one range, not a scan of the newest chunk.
CREATE INDEX timeseries_data_by_time ON timeseries_data ("timestamp");
CREATE INDEX ai_features_by_hour ON ai_features (hour);

-- By default each bucket is a transaction of its own, and a year of hours has thousands.
SELECT remove_continuous_aggregate_policy('hourly_features');
SELECT add_continuous_aggregate_policy(
    'hourly_features', start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '15 minutes',
    buckets_per_batch => 720
);
SELECT remove_continuous_aggregate_policy('daily_features');
SELECT add_continuous_aggregate_policy(
    'daily_features', start_offset => NULL, end_offset => INTERVAL '1 day', schedule_interval => INTERVAL '1 hour',
    buckets_per_batch => 30
);

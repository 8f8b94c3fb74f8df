-- What measuring the layouts recommended; questions, plans and numbers are in docs/database.md.

-- By default each bucket is a transaction of its own, and a year of hours has thousands. Altered in place: to remove a
-- policy waits for its job, which may be running and wait for this transaction.
SELECT alter_job(job_id, config => config || '{"buckets_per_batch": 720}')
FROM timescaledb_information.jobs
WHERE proc_name = 'policy_refresh_continuous_aggregate' AND hypertable_name IN ('hourly_features', 'daily_features');

-- An hour of all assets is one range, not a scan of the newest chunk.
CREATE INDEX timeseries_data_by_time ON timeseries_data ("timestamp");
CREATE INDEX ai_features_by_hour ON ai_features (hour);

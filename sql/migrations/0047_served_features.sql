-- Rows that were served online, a sample of them: `ai-hub check features` compares each with history and deletes it.
CREATE TABLE served_features (
    tenant_id       text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    asset_id        text NOT NULL,
    -- of the feature view
    view_name       text NOT NULL,
    -- of the row
    event_timestamp timestamptz NOT NULL,
    served_at       timestamptz NOT NULL,
    -- by name, as they were served; null: no value
    features        jsonb NOT NULL
);
CREATE INDEX served_features_by_time ON served_features (tenant_id, served_at);

-- Values that were served online and are others in history.
ALTER TABLE data_findings
    DROP CONSTRAINT data_findings_kind_check,
    ADD CONSTRAINT data_findings_kind_check CHECK (kind IN (
        'gap', 'stuck', 'skipped_hour', 'repeated_hour',
        'register_fault', 'register_gap', 'looks_like_register', 'unknown_interval',
        'feature_range', 'feature_nulls', 'feature_stale', 'feature_skew',
        'error_code', 'copied_days', 'unit_jump', 'clock_shift',
        'midnight_sun', 'negative_consumption', 'implausible_ramp', 'frozen_weather'
    ));
DROP INDEX data_findings_of_features;
CREATE INDEX data_findings_of_features ON data_findings (tenant_id, asset_id)
WHERE resolved_at IS NULL AND kind IN ('feature_range', 'feature_nulls', 'feature_stale', 'feature_skew');

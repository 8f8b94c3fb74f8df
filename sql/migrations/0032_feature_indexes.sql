-- Of the rows of features that are not in the columnstore. Built while they can be read, only refreshes wait: 0033 locks
-- them, and finds the indexes there.
CREATE INDEX ai_features_stored_hour_idx ON ai_feature_versions (hour) WHERE superseded_at IS NULL;
CREATE INDEX ai_features_stored_created_timestamp_idx ON ai_feature_versions (created_timestamp)
WHERE superseded_at IS NULL;

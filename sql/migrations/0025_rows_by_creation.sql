-- What a refresh changed is read by the time it was computed, and what is asked for is computed first.

CREATE INDEX ai_features_by_creation ON ai_features (created_timestamp);

-- Assets whose features were read online lately. A follower of the refreshes notes them every few minutes.
CREATE TABLE feature_demand (
    tenant_id text NOT NULL,
    asset_id  text NOT NULL,
    asked_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, asset_id)
);

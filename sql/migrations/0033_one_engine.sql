-- The features of the contract's services are those of a declared view, ai_features. Its table is that of all versions,
-- which is renamed: no row is rewritten, and history, columnstore and policy stay. The rows of the last 90 days, which were
-- kept a second time, go.

DROP SCHEMA IF EXISTS tenant_wall CASCADE;
DROP VIEW IF EXISTS
    forecast_basic_features, forecast_advanced_features, anomaly_detection_features,
    forecast_basic_feature_versions, forecast_advanced_feature_versions, anomaly_detection_feature_versions;
DROP VIEW IF EXISTS dated_feature_rows, dated_feature_versions;
DROP VIEW IF EXISTS feature_rows, computed_features, feature_keys;
DROP TABLE ai_features;

ALTER TABLE ai_feature_versions RENAME TO ai_features_stored;
ALTER TABLE ai_features_stored ADD COLUMN generation integer NOT NULL DEFAULT 1;

-- Nobody's project, until one declares it differently. `ai-hub migrate` generates the rest.
INSERT INTO declared_views (view_name, project, declaration, sha256, statement, meanings, filled_from)
VALUES ('ai_features', '', '{}', '', '', '{}', '-infinity');
INSERT INTO declared_spans (view_name, tenant_id, asset_id, stored)
SELECT 'ai_features', tenant_id, asset_id, stored FROM asset_spans WHERE NOT isempty(stored);
ALTER TABLE asset_spans DROP stored;

-- Ranges that a refresh has left
INSERT INTO declared_refresh_ranges (view_name, tenant_id, asset_id, first_hour, end_hour, plan_id, place)
SELECT 'ai_features', tenant_id, asset_id, first_hour, end_hour, plan_id, place FROM feature_refresh_ranges;
DROP TABLE feature_refresh_ranges;

-- Findings about features that break the limits of their fields: of a view's feature, which `subject` names as
-- view.feature. Of findings about readings it is empty.
ALTER TABLE data_findings
    ADD COLUMN subject text NOT NULL DEFAULT '',
    DROP CONSTRAINT data_findings_pkey,
    ADD PRIMARY KEY (tenant_id, asset_id, kind, subject, first_timestamp),
    DROP CONSTRAINT data_findings_kind_check,
    ADD CONSTRAINT data_findings_kind_check CHECK (kind IN (
        'gap', 'stuck', 'skipped_hour', 'repeated_hour',
        'register_fault', 'register_gap', 'looks_like_register', 'unknown_interval',
        'feature_range', 'feature_nulls', 'feature_stale'
    ));
-- Every pass of `ai-hub materialize` asks for those of its assets.
CREATE INDEX data_findings_of_features ON data_findings (tenant_id, asset_id)
WHERE resolved_at IS NULL AND kind IN ('feature_range', 'feature_nulls', 'feature_stale');

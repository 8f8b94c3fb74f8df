-- Findings about readings that are probably wrong: suspects. They stay as they were read; a tenant's policy for the
-- quality 'found' says whether features use those that an open finding is about. Without a row they do.
ALTER TABLE data_findings
    DROP CONSTRAINT data_findings_kind_check,
    ADD CONSTRAINT data_findings_kind_check CHECK (kind IN (
        'gap', 'stuck', 'skipped_hour', 'repeated_hour',
        'register_fault', 'register_gap', 'looks_like_register', 'unknown_interval',
        'feature_range', 'feature_nulls', 'feature_stale',
        'error_code', 'copied_days', 'unit_jump', 'clock_shift',
        'midnight_sun', 'negative_consumption', 'implausible_ramp', 'frozen_weather'
    ));
ALTER TABLE quality_policies
    DROP CONSTRAINT quality_policies_quality_check,
    ADD CONSTRAINT quality_policies_quality_check CHECK (quality IN ('estimated', 'suspect', 'found'));

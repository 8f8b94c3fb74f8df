-- Feature rows follow the readings: none between two that are more than a week apart.

ALTER TABLE asset_spans
    -- of readings at most 168 hours apart: from the hour of the first to 168 hours after that of the last
    ADD COLUMN periods tstzmultirange NOT NULL DEFAULT '{}',
    -- hours whose feature rows a refresh has stored
    ADD COLUMN stored  tstzmultirange NOT NULL DEFAULT '{}';
UPDATE asset_spans SET
    periods = tstzmultirange(tstzrange(first_hour, last_hour + INTERVAL '168 hours', '[]')),
    stored = coalesce(tstzmultirange(tstzrange(stored_from, stored_through + INTERVAL '1 hour')), '{}')
WHERE isfinite(first_hour) AND isfinite(last_hour);

-- The next refresh measures the periods of all assets, and ends the rows between them.
ALTER TABLE feature_changes DROP CONSTRAINT feature_changes_source_check;
ALTER TABLE feature_changes
    ADD CONSTRAINT feature_changes_source_check CHECK (source IN ('readings', 'deletion', 'weather', 'periods'));
INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour)
SELECT 'periods', tenant_id, asset_id, first_hour, last_hour FROM asset_spans;

-- In place, for views of others stand on it; sql/code has the same.
CREATE OR REPLACE FUNCTION unstored_rows(periods tstzmultirange, stored tstzmultirange)
RETURNS TABLE (first_hour timestamptz, end_hour timestamptz) LANGUAGE plpgsql STABLE ROWS 2 AS $$
BEGIN
    RETURN QUERY
    SELECT lower(missing), upper(missing)
    FROM unnest((
        SELECT range_agg(tstzrange(lower(period) + INTERVAL '1 hour', upper(period) - INTERVAL '143 hours'))
        FROM unnest(periods) AS period
    ) - stored) AS missing;
END
$$;
CREATE OR REPLACE VIEW feature_keys AS
SELECT spans.tenant_id, spans.asset_id, hours.hour
FROM asset_spans AS spans
CROSS JOIN LATERAL unstored_rows(spans.periods, spans.stored) AS missing
JOIN feature_hours AS hours ON hours.hour >= missing.first_hour AND hours.hour < missing.end_hour
WHERE hours.hour <= now();
DROP VIEW IF EXISTS tenant_wall.asset_spans;
ALTER TABLE asset_spans DROP COLUMN stored_from, DROP COLUMN stored_through;

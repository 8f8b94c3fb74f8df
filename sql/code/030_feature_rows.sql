-- Which rows there are. What they are is generated from declarations (feast_plugins/windows), also those of the contract's
-- services: the view ai_features.

DROP VIEW IF EXISTS forecast_basic_features, forecast_advanced_features, anomaly_detection_features;
DROP VIEW IF EXISTS
    forecast_basic_feature_versions, forecast_advanced_feature_versions, anomaly_detection_feature_versions;
DROP VIEW IF EXISTS dated_feature_rows, dated_feature_versions;
DROP VIEW IF EXISTS feature_rows, computed_features, feature_keys;
DROP FUNCTION IF EXISTS features_at(text, text, text, timestamptz);
DROP FUNCTION IF EXISTS features_at(text, text, text, timestamptz, boolean, double precision, integer);
DROP FUNCTION IF EXISTS features_at(
    text, text, text, timestamptz, boolean, double precision, integer, timestamptz, timestamptz
);
DROP FUNCTION IF EXISTS features_between(
    text, text, text, timestamptz, timestamptz, timestamptz, timestamptz, boolean, double precision, integer
);
DROP FUNCTION IF EXISTS features_between(text, text, text, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS features_between(text, text, text, timestamptz, timestamptz, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS weather_at(text, text, timestamptz);
DROP FUNCTION IF EXISTS weather_at(text, text, timestamptz, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS compute_feature_batch(integer);
DROP FUNCTION IF EXISTS compute_feature_batch(integer, integer, integer);
DROP FUNCTION IF EXISTS supersede_recent_versions(feature_key[], timestamptz, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS supersede_feature_versions(text, text, timestamptz[], timestamptz);
DROP FUNCTION IF EXISTS end_feature_rows(text, text, tstzmultirange);
DROP FUNCTION IF EXISTS features_stored_since();
DROP FUNCTION IF EXISTS calendar_at(timestamptz, text);
DROP VIEW IF EXISTS hourly_state;

-- The time by which versions are told apart: the clock's, but never before the last refresh, should it be put back.
CREATE OR REPLACE FUNCTION feature_stamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT greatest(
        clock_timestamp(),
        (SELECT finished_at FROM feature_refreshes ORDER BY refresh_id DESC LIMIT 1) + INTERVAL '1 microsecond'
    )
$$;

-- Ranges of an asset's rows that no refresh has stored. In each period rows exist from the hour after its first
-- reading until 24 hours after its last. Not inlined: the planner would expect a hundred ranges, and meet all hours.
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

-- Weather older than its retention (a year, and the six hours a row looks back) may be gone.
CREATE OR REPLACE FUNCTION weather_kept_since() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT time_bucket(INTERVAL '1 hour', now() - INTERVAL '1 year') + INTERVAL '7 hours'
$$;

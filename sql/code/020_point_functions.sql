-- Point-in-time reads for one asset, from hourly state. `at_time` counts as its hour, the stamp of the
-- feature row it belongs to: only readings before that hour are used. Values are those of hour_value().

CREATE OR REPLACE FUNCTION get_lag_features(tenant text, asset text, at_time timestamptz, lags integer[])
RETURNS TABLE (lag_hour integer, lag_value double precision)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(lags) AS lag WHERE lag IS NULL OR lag < 1) THEN
        RAISE EXCEPTION 'lags must be whole hours of at least 1, got %', lags
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A lag below 1 would read the hour to be predicted.';
    END IF;
    RETURN QUERY
    SELECT wanted.lag, hourly.value
    FROM unnest(lags) WITH ORDINALITY AS wanted (lag, place)
    LEFT JOIN hourly_values AS hourly
        ON hourly.tenant_id = tenant AND hourly.asset_id = asset
        AND hourly.hour = time_bucket(INTERVAL '1 hour', at_time) - wanted.lag * INTERVAL '1 hour'
    ORDER BY wanted.place;
END
$$;

-- std is the sample standard deviation (n - 1): NULL below two readings.
CREATE OR REPLACE FUNCTION get_rolling_features(tenant text, asset text, at_time timestamptz, window_hours integer)
RETURNS TABLE (
    window_avg double precision, window_std double precision,
    window_min double precision, window_max double precision, window_count bigint
)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF window_hours IS NULL OR window_hours < 1 THEN
        RAISE EXCEPTION 'window_hours must be a whole number of hours of at least 1, got %', window_hours
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 24 for a day, 168 for a week.';
    END IF;
    RETURN QUERY
    SELECT
        float8_avg(merged.stats), float8_stddev_samp(merged.stats),
        merged.min_value, merged.max_value, merged.readings
    FROM (
        SELECT
            stats_merge(stats) AS stats, min(least_value) AS min_value, max(greatest_value) AS max_value,
            coalesce(sum(sample_count), 0)::bigint AS readings
        FROM hourly_values
        WHERE tenant_id = tenant AND asset_id = asset
            AND hour >= time_bucket(INTERVAL '1 hour', at_time) - window_hours * INTERVAL '1 hour'
            AND hour < time_bucket(INTERVAL '1 hour', at_time)
    ) AS merged;
END
$$;

-- What an hour of an asset is: the one definition that features, lags, targets and forecasts are made of.

-- From an hour's statistics and what is known of its asset (see assets): its value, and the state that larger windows
-- merge, as {hours covered, value times hours, squares}.
-- Amounts (energy, volume): the sum over the time covered, which is the mean power or flow, whatever the intervals.
-- Rates (power): the mean, weighted by the intervals where all are known. Nothing known: every reading weighs the same.
-- An amount whose interval nobody said has no value.
CREATE OR REPLACE FUNCTION hour_value(
    is_amount boolean, factor double precision, interval_seconds integer,
    avg_value double precision, min_value double precision, max_value double precision, value_stats double precision[],
    known_seconds bigint, unknown_count bigint, value_seconds double precision
)
RETURNS TABLE (
    value double precision, least_value double precision, greatest_value double precision, stats double precision[]
)
LANGUAGE sql IMMUTABLE AS $$
    SELECT
        CASE WHEN is_amount IS NULL THEN avg_value ELSE mean.rate END,
        CASE WHEN is_amount IS NULL THEN min_value ELSE mean.rate END,
        CASE WHEN is_amount IS NULL THEN max_value ELSE mean.rate END,
        CASE
            WHEN is_amount IS NULL THEN value_stats
            WHEN mean.rate IS NOT NULL THEN ARRAY[covered.hours, mean.rate * covered.hours, 0]
        END
    FROM (
        SELECT coalesce(
            CASE WHEN unknown_count = 0 THEN known_seconds
                ELSE coalesce(known_seconds, 0) + unknown_count * interval_seconds END,
            CASE WHEN is_amount THEN NULL ELSE 3600 END
        ) / 3600::double precision AS hours
    ) AS covered
    CROSS JOIN LATERAL (
        SELECT factor * CASE
            WHEN is_amount THEN value_stats[2] / covered.hours
            WHEN unknown_count = 0 THEN value_seconds / known_seconds
            ELSE avg_value
        END AS rate
    ) AS mean
$$;

-- The same of a step of so many seconds, for which squares and weights count steps instead of hours. Readings that cover
-- more than it say nothing of it: they go on after its end.
CREATE OR REPLACE FUNCTION step_value(
    step_seconds integer, longest_seconds integer, is_amount boolean, factor double precision, interval_seconds integer,
    avg_value double precision, min_value double precision, max_value double precision, value_stats double precision[],
    known_seconds bigint, unknown_count bigint, value_seconds double precision
)
RETURNS TABLE (
    value double precision, least_value double precision, greatest_value double precision, stats double precision[]
)
LANGUAGE sql IMMUTABLE AS $$
    SELECT
        CASE WHEN is_amount IS NULL THEN avg_value ELSE mean.rate END,
        CASE WHEN is_amount IS NULL THEN min_value ELSE mean.rate END,
        CASE WHEN is_amount IS NULL THEN max_value ELSE mean.rate END,
        CASE
            WHEN is_amount IS NULL THEN value_stats
            WHEN mean.rate IS NOT NULL THEN ARRAY[covered.seconds / step_seconds, mean.rate * covered.seconds / step_seconds, 0]
        END
    FROM (
        SELECT coalesce(
            CASE WHEN unknown_count = 0 THEN known_seconds
                ELSE coalesce(known_seconds, 0) + unknown_count * interval_seconds END,
            CASE WHEN is_amount THEN NULL ELSE step_seconds END
        )::double precision AS seconds
    ) AS covered
    CROSS JOIN LATERAL (
        SELECT factor * CASE
            WHEN is_amount THEN value_stats[2] / (covered.seconds / 3600)
            WHEN unknown_count = 0 THEN value_seconds / known_seconds
            ELSE avg_value
        END AS rate
    ) AS mean
    -- clocks of meters are not exact
    WHERE (10::bigint * greatest(longest_seconds, CASE WHEN unknown_count > 0 THEN interval_seconds END) <= 11 * step_seconds) IS NOT FALSE
$$;

-- Hours by value, in the unit `feature_unit` of their asset.
CREATE OR REPLACE VIEW hourly_values AS
SELECT
    hourly.tenant_id, hourly.asset_id, hourly.hour, hours.value, hours.least_value, hours.greatest_value, hours.stats,
    hourly.sample_count, assets.feature_unit
FROM hourly_features AS hourly
LEFT JOIN assets ON assets.tenant_id = hourly.tenant_id AND assets.asset_id = hourly.asset_id
CROSS JOIN LATERAL hour_value(
    assets.is_amount, assets.unit_factor, assets.interval_seconds,
    hourly.avg_value, hourly.min_value, hourly.max_value, hourly.value_stats,
    hourly.known_seconds, hourly.unknown_count, hourly.value_seconds
) AS hours;

-- Quantile of values, interpolated between the two next to it; empty values do not count. A function, as
-- percentile_cont() is no window function.
CREATE OR REPLACE FUNCTION value_quantile(of_values double precision[], share double precision)
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT percentile_cont(share) WITHIN GROUP (ORDER BY value) FROM unnest(of_values) AS value
$$;

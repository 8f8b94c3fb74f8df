-- Chunks hold tens of millions of rows, whatever the rate: their indexes stay in memory, and reads plan few chunks.

-- Sets the interval of chunks to come from the rows a day in the newest two; those that are there stay as they are.
-- Returns the hypertables whose interval changed.
CREATE OR REPLACE FUNCTION follow_rate_with_chunks(most_rows double precision DEFAULT 30000000)
RETURNS TABLE (hypertable text, before interval, after interval)
LANGUAGE plpgsql AS $$
DECLARE
    tables record;
    rate   double precision;
BEGIN
    FOR tables IN
        SELECT dimensions.hypertable_name AS name, longest, dimensions.time_interval
        FROM timescaledb_information.dimensions AS dimensions
        JOIN (VALUES
            ('timeseries_data', INTERVAL '30 days'), ('register_readings', INTERVAL '30 days'),
            ('weather_features', INTERVAL '30 days'), ('covariates', INTERVAL '30 days'),
            ('ai_features_stored', INTERVAL '30 days'), ('forecasts', INTERVAL '7 days')
        ) AS ours (name, longest) ON dimensions.hypertable_name = ours.name
        WHERE dimensions.hypertable_schema = 'public' AND dimensions.dimension_number = 1
    LOOP
        SELECT sum(approximate_row_count(chunk)) / (sum(extract(epoch FROM until - range_start)) / 86400) INTO rate
        FROM (
            SELECT format('%I.%I', chunk_schema, chunk_name)::regclass AS chunk, range_start, least(range_end, now()) AS until
            FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'public' AND hypertable_name = tables.name AND range_start < now() - INTERVAL '1 hour'
            ORDER BY range_start DESC LIMIT 2
        ) AS newest;
        hypertable := tables.name;
        before := tables.time_interval;
        SELECT coalesce(max(length), INTERVAL '1 hour') INTO after
        FROM unnest(ARRAY[
            INTERVAL '1 hour', INTERVAL '6 hours', INTERVAL '1 day', INTERVAL '7 days', tables.longest
        ]) AS length
        WHERE extract(epoch FROM length) / 86400 * coalesce(rate, 0) <= most_rows;
        IF after <> before THEN
            PERFORM set_chunk_time_interval(format('public.%I', tables.name)::regclass, after);
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

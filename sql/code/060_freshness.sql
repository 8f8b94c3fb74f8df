-- How fresh the data behind feature rows is: the age of readings, whatever jobs ran since.

-- Newest reading that each row used: the last one before the row's hour. One index probe a row. A row looks back
-- a week and an hour, so a reading from before that is in none of its features.
CREATE OR REPLACE FUNCTION feature_freshness(tenants text[], assets text[], hours timestamptz[])
RETURNS TABLE (tenant_id text, asset_id text, hour timestamptz, newest_reading timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT asked.tenant_id, asked.asset_id, asked.hour, newest."timestamp"
    FROM unnest(tenants, assets, hours) AS asked (tenant_id, asset_id, hour)
    LEFT JOIN LATERAL (
        SELECT readings."timestamp"
        FROM timeseries_data AS readings
        WHERE readings.tenant_id = asked.tenant_id AND readings.asset_id = asked.asset_id
            AND readings.in_features AND readings."timestamp" < asked.hour AND readings."timestamp" >= asked.hour - INTERVAL '168 hours'
        ORDER BY readings."timestamp" DESC
        LIMIT 1
    ) AS newest ON true
$$;

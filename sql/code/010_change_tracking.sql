-- Statement triggers note which hours of which asset a write touched: one row a contiguous range,
-- so a bulk load of a year costs one row an asset.

CREATE OR REPLACE FUNCTION note_reading_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH written AS (
        SELECT
            tenant_id, asset_id, range_agg(tstzrange(hour, hour + INTERVAL '1 hour')) AS hours,
            min("timestamp") AS first_at, max("timestamp") AS last_at, max(available_at - "timestamp") AS longest_delay
        FROM changed, time_bucket(INTERVAL '1 hour', "timestamp") AS hour
        WHERE isfinite("timestamp")
        GROUP BY tenant_id, asset_id
    ),
    noted AS (
        INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour, first_at, last_at)
        SELECT
            'readings', tenant_id, asset_id, lower(island), upper(island) - INTERVAL '1 hour',
            CASE WHEN lower(island) = lower(hours) THEN first_at END, CASE WHEN upper(island) = upper(hours) THEN last_at END
        FROM written, unnest(hours) AS island
    )
    -- sorted, so that two writers lock the spans in the same order; unchanged spans are not locked
    INSERT INTO asset_spans AS spans (tenant_id, asset_id, first_hour, last_hour, periods, longest_delay)
    SELECT tenant_id, asset_id, lower(hours), upper(hours) - INTERVAL '1 hour', periods, longest_delay
    FROM written
    CROSS JOIN LATERAL (
        SELECT range_agg(tstzrange(lower(island), upper(island) + INTERVAL '167 hours', '[]')) AS periods
        FROM unnest(hours) AS island
    ) AS reached
    WHERE NOT EXISTS (
        SELECT FROM asset_spans AS known
        WHERE known.tenant_id = written.tenant_id AND known.asset_id = written.asset_id
            AND known.periods @> reached.periods
            AND (written.longest_delay IS NULL OR known.longest_delay >= written.longest_delay)
    )
    ORDER BY tenant_id, asset_id
    ON CONFLICT (tenant_id, asset_id) DO UPDATE SET
        first_hour = least(spans.first_hour, excluded.first_hour),
        last_hour = greatest(spans.last_hour, excluded.last_hour),
        periods = spans.periods + excluded.periods,
        longest_delay = greatest(spans.longest_delay, excluded.longest_delay);
    RETURN NULL;
END
$$;

-- Row by row: a table in the columnstore has no transition table for deletes. The next refresh measures the
-- asset's periods anew.
CREATE OR REPLACE FUNCTION note_reading_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour)
    SELECT 'deletion', OLD.tenant_id, OLD.asset_id, hour, hour
    FROM time_bucket(INTERVAL '1 hour', OLD."timestamp") AS hour WHERE isfinite(hour);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION note_weather_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour)
    SELECT 'weather', tenant_id, asset_id, lower(island), upper(island) - INTERVAL '1 hour'
    FROM (
        SELECT tenant_id, asset_id, range_agg(tstzrange(hour, hour + INTERVAL '1 hour')) AS hours
        FROM changed, time_bucket(INTERVAL '1 hour', "timestamp") AS hour
        WHERE isfinite("timestamp")
        GROUP BY tenant_id, asset_id
    ) AS written, unnest(hours) AS island;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION note_series_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO feature_changes (source, tenant_id, series, zone, first_hour, last_hour)
    SELECT 'series', tenant_id, series, zone, lower(island), upper(island) - INTERVAL '1 hour'
    FROM (
        SELECT tenant_id, series, zone, range_agg(tstzrange(hour, hour + INTERVAL '1 hour')) AS hours
        FROM changed, time_bucket(INTERVAL '1 hour', "timestamp") AS hour
        GROUP BY tenant_id, series, zone
    ) AS written, unnest(hours) AS island;
    RETURN NULL;
END
$$;

-- Another member, or one less: all totals of the group.
CREATE OR REPLACE FUNCTION note_group_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO feature_changes (source, tenant_id, zone, first_hour, last_hour)
    SELECT DISTINCT 'group', tenant_id, "group", TIMESTAMPTZ '-infinity', TIMESTAMPTZ 'infinity'
    FROM (
        SELECT OLD.tenant_id, OLD."group" WHERE TG_OP <> 'INSERT'
        UNION
        SELECT NEW.tenant_id, NEW."group" WHERE TG_OP <> 'DELETE'
    ) AS groups
    WHERE "group" IS NOT NULL;
    RETURN NULL;
END
$$;

-- An asset of which something else is known now, of the kind that the trigger names: what is made of it is needed anew.
CREATE OR REPLACE FUNCTION note_asset_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour)
    SELECT TG_ARGV[0], tenant_id, asset_id, lower(period), upper(period) - INTERVAL '168 hours'
    FROM asset_spans, unnest(periods) AS period WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id;
    RETURN NULL;
END
$$;

-- Features leave suspect readings out and use estimated ones, unless the tenant's policy says otherwise.
CREATE OR REPLACE FUNCTION quality_in_features(tenant text, quality text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT in_features FROM quality_policies AS policies WHERE policies.tenant_id = $1 AND policies.quality = $2),
        $2 <> 'suspect'
    )
$$;

-- Whether features use a reading: by its quality, and by what was found about it since (migration 0044).
CREATE OR REPLACE FUNCTION reading_in_features(tenant text, asset text, at timestamptz, quality text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT quality_in_features(tenant, quality) AND (
        quality_in_features(tenant, 'found') OR NOT EXISTS (
            SELECT FROM data_findings
            WHERE tenant_id = tenant AND asset_id = asset AND resolved_at IS NULL
                AND at BETWEEN first_timestamp AND last_timestamp
                AND kind IN (
                    'error_code', 'copied_days', 'unit_jump', 'clock_shift',
                    'midnight_sun', 'negative_consumption', 'implausible_ramp'
                )
        )
    )
$$;

CREATE OR REPLACE FUNCTION apply_quality_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.in_features := reading_in_features(NEW.tenant_id, NEW.asset_id, NEW."timestamp", NEW.quality);
    RETURN NEW;
END
$$;

-- Brings a tenant's readings of [start, until) in line with its policy; how many changed. They queue their hours.
CREATE OR REPLACE FUNCTION reapply_quality_policy(tenant text, start timestamptz, until timestamptz)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE timeseries_data SET in_features = NOT in_features
    WHERE tenant_id = tenant AND "timestamp" >= start AND "timestamp" < until AND quality <> 'good'
        AND in_features <> reading_in_features(tenant, asset_id, "timestamp", quality);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;

-- The same of one asset between two times, both included, after findings about it or the policy for them changed.
CREATE OR REPLACE FUNCTION reapply_findings(tenant text, asset text, first_at timestamptz, last_at timestamptz)
RETURNS bigint LANGUAGE plpgsql SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0 AS $$
DECLARE
    changed bigint;
BEGIN
    -- literals, because only they let the columnstore open no more than the asset's own batches of these times
    EXECUTE format(
        'UPDATE timeseries_data SET in_features = NOT in_features'
        ' WHERE tenant_id = %1$L AND asset_id = %2$L AND "timestamp" >= %3$L AND "timestamp" <= %4$L'
        ' AND in_features <> reading_in_features(%1$L, %2$L, "timestamp", quality)',
        tenant, asset, first_at, last_at
    );
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;

CREATE OR REPLACE TRIGGER readings_inserted AFTER INSERT ON timeseries_data
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_reading_changes();
CREATE OR REPLACE TRIGGER readings_updated AFTER UPDATE ON timeseries_data
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_reading_changes();
CREATE OR REPLACE TRIGGER readings_deleted AFTER DELETE ON timeseries_data
FOR EACH ROW EXECUTE FUNCTION note_reading_deletion();

CREATE OR REPLACE TRIGGER weather_inserted AFTER INSERT ON weather_features
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_weather_changes();
CREATE OR REPLACE TRIGGER weather_updated AFTER UPDATE ON weather_features
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_weather_changes();
CREATE OR REPLACE TRIGGER weather_deleted AFTER DELETE ON weather_features
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_weather_changes();

-- good readings pay no more than the comparison
CREATE OR REPLACE TRIGGER readings_judged BEFORE INSERT OR UPDATE ON timeseries_data
FOR EACH ROW WHEN (NEW.quality <> 'good' OR NOT NEW.in_features) EXECUTE FUNCTION apply_quality_policy();

DROP TRIGGER IF EXISTS weather_source_changed ON assets;
DROP FUNCTION IF EXISTS note_weather_source_change();
-- other weather, or readings that mean something else: all features
CREATE OR REPLACE TRIGGER asset_changed AFTER UPDATE ON assets
FOR EACH ROW WHEN (
    (
        OLD.weather_asset_id, OLD.is_amount, OLD.unit_factor, OLD.interval_seconds, OLD.feature_unit
    ) IS DISTINCT FROM (
        NEW.weather_asset_id, NEW.is_amount, NEW.unit_factor, NEW.interval_seconds, NEW.feature_unit
    )
)
EXECUTE FUNCTION note_asset_change('asset');
-- readings may have come before their asset
CREATE OR REPLACE TRIGGER asset_added AFTER INSERT ON assets
FOR EACH ROW WHEN (coalesce(NEW.is_amount::text, NEW.weather_asset_id) IS NOT NULL) EXECUTE FUNCTION note_asset_change('asset');

-- the register keeps no versions of its rows
CREATE OR REPLACE FUNCTION note_asset_times() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.weather_asset_id IS DISTINCT FROM OLD.weather_asset_id THEN
        NEW.weather_since := now();
    END IF;
    IF NEW.timezone <> OLD.timezone THEN
        NEW.timezone_since := now();
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER asset_times BEFORE UPDATE ON assets
FOR EACH ROW WHEN (
    (OLD.weather_asset_id, OLD.timezone) IS DISTINCT FROM (NEW.weather_asset_id, NEW.timezone)
)
EXECUTE FUNCTION note_asset_times();

-- only what looks at the keys: declared features
CREATE OR REPLACE TRIGGER keys_changed AFTER UPDATE ON assets
FOR EACH ROW WHEN (
    (OLD.price_zone, OLD."group", OLD.weather_station) IS DISTINCT FROM (NEW.price_zone, NEW."group", NEW.weather_station)
)
EXECUTE FUNCTION note_asset_change('keys');
CREATE OR REPLACE TRIGGER keys_added AFTER INSERT ON assets
FOR EACH ROW WHEN (coalesce(NEW.price_zone, NEW."group", NEW.weather_station) IS NOT NULL) EXECUTE FUNCTION note_asset_change('keys');

CREATE OR REPLACE TRIGGER series_inserted AFTER INSERT ON covariates
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_series_changes();
CREATE OR REPLACE TRIGGER series_updated AFTER UPDATE ON covariates
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_series_changes();
CREATE OR REPLACE TRIGGER series_deleted AFTER DELETE ON covariates
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_series_changes();

CREATE OR REPLACE TRIGGER member_added AFTER INSERT ON assets
FOR EACH ROW WHEN (NEW."group" IS NOT NULL) EXECUTE FUNCTION note_group_change();
CREATE OR REPLACE TRIGGER member_changed AFTER UPDATE ON assets
FOR EACH ROW WHEN (OLD."group" IS DISTINCT FROM NEW."group") EXECUTE FUNCTION note_group_change();
CREATE OR REPLACE TRIGGER member_removed AFTER DELETE ON assets
FOR EACH ROW WHEN (OLD."group" IS NOT NULL) EXECUTE FUNCTION note_group_change();

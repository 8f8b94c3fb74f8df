-- Amounts per interval from the readings of registers. What they are follows from the stored readings alone, so that the
-- order in which readings arrive makes no difference.

-- Whether a register that fell has passed its highest number: what it counted then is a tenth of its range at most.
CREATE OR REPLACE FUNCTION register_rolls_over(before double precision, after double precision, digits integer)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(
        after < before AND before < 10::float8 ^ digits AND after + 10::float8 ^ digits - before <= 10::float8 ^ digits / 10,
        false
    )
$$;

-- What was counted between two readings next to each other, and why that cannot be used; NULL: it can.
-- `earlier` and `later` are the nearest readings on either side with another value.
CREATE OR REPLACE FUNCTION register_difference(
    earlier double precision, before double precision, after double precision, later double precision,
    seconds double precision, digits integer, capacity double precision, interval_seconds integer
)
RETURNS TABLE (counted double precision, fault text) LANGUAGE sql IMMUTABLE AS $$
    SELECT difference, CASE
        WHEN before >= 10::float8 ^ digits OR after >= 10::float8 ^ digits THEN 'digits'
        WHEN difference < 0 THEN 'fell'
        -- one wrong reading between two right ones makes a fall, and a rise as large
        WHEN before < earlier AND after >= earlier THEN 'back'
        WHEN later < after AND later >= before AND before < after AND NOT register_rolls_over(after, later, digits) THEN 'falls'
        WHEN difference > 1.1 * capacity * greatest(seconds / coalesce(interval_seconds, 3600), 1) THEN 'capacity'
        WHEN seconds > greatest(3600, 1.5 * interval_seconds) THEN 'gap'
    END
    FROM (
        SELECT after - before
            + CASE WHEN register_rolls_over(before, after, digits) THEN 10::float8 ^ digits ELSE 0 END AS difference
    ) AS counted
$$;

-- Brings timeseries_data and data_findings in line with the readings of registers between firsts and lasts, both
-- included, and with those next to them. One writer of an asset at a time: the lock on its row in assets.
CREATE OR REPLACE FUNCTION derive_from_registers(
    tenants text[], assets_of text[], firsts timestamptz[], lasts timestamptz[]
)
RETURNS void LANGUAGE plpgsql
SET ai_hub.deriving = 'on' SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0 AS $$
DECLARE
    stale record;
    gone  jsonb;
BEGIN
    PERFORM FROM assets
    WHERE (tenant_id, asset_id) IN (SELECT * FROM unnest(tenants, assets_of))
    ORDER BY tenant_id, asset_id
    FOR NO KEY UPDATE;
    WITH touched AS (
        SELECT written.*
        FROM unnest(tenants, assets_of, firsts, lasts) AS written (tenant_id, asset_id, first_at, last_at)
        JOIN assets USING (tenant_id, asset_id)
        WHERE assets.reading = 'register'
    ),
    -- a reading decides the intervals next to it, and those on the other side of readings that are equal to its neighbours
    reaches AS (
        SELECT
            touched.tenant_id, touched.asset_id,
            range_agg(tstzrange(
                coalesce(different_before.at, previous.at, touched.first_at),
                coalesce(different_after.at, 'infinity')
            )) AS reach
        FROM touched
        LEFT JOIN LATERAL (
            SELECT "timestamp" AS at, value FROM register_readings
            WHERE tenant_id = touched.tenant_id AND asset_id = touched.asset_id AND "timestamp" < touched.first_at
            ORDER BY "timestamp" DESC LIMIT 1
        ) AS previous ON true
        LEFT JOIN LATERAL (
            SELECT "timestamp" AS at FROM register_readings
            WHERE tenant_id = touched.tenant_id AND asset_id = touched.asset_id
                AND "timestamp" < previous.at AND value <> previous.value
            ORDER BY "timestamp" DESC LIMIT 1
        ) AS different_before ON true
        LEFT JOIN LATERAL (
            SELECT "timestamp" AS at, value FROM register_readings
            WHERE tenant_id = touched.tenant_id AND asset_id = touched.asset_id AND "timestamp" > touched.last_at
            ORDER BY "timestamp" LIMIT 1
        ) AS following ON true
        LEFT JOIN LATERAL (
            SELECT "timestamp" AS at FROM register_readings
            WHERE tenant_id = touched.tenant_id AND asset_id = touched.asset_id
                AND "timestamp" > following.at AND value <> following.value
            ORDER BY "timestamp" LIMIT 1
        ) AS different_after ON true
        GROUP BY touched.tenant_id, touched.asset_id
    ),
    ranges AS MATERIALIZED (
        SELECT
            reaches.tenant_id, reaches.asset_id, lower(one) AS low, upper(one) AS high,
            assets.register_digits, assets.capacity, assets.interval_seconds, assets.available_after
        FROM reaches
        JOIN assets USING (tenant_id, asset_id)
        CROSS JOIN unnest(reach) AS one
    ),
    steps AS (
        SELECT
            ranges.*, readings."timestamp" AS at, readings.value, readings.quality,
            lead(readings."timestamp") OVER series AS next_at,
            lead(readings.value) OVER series AS next_value,
            lead(readings.quality) OVER series AS next_quality,
            readings.available_at, lead(readings.available_at) OVER series AS next_available_at,
            lag(readings.value) OVER series AS last_value,
            lead(readings.value, 2) OVER series AS second_value
        FROM ranges
        JOIN register_readings AS readings ON readings.tenant_id = ranges.tenant_id
            AND readings.asset_id = ranges.asset_id AND readings."timestamp" BETWEEN ranges.low AND ranges.high
        WINDOW series AS (PARTITION BY ranges.tenant_id, ranges.asset_id, ranges.low ORDER BY readings."timestamp")
    ),
    judged AS MATERIALIZED (
        SELECT
            steps.tenant_id, steps.asset_id, steps.at, steps.next_at, steps.value, steps.next_value,
            seconds, difference.counted, difference.fault,
            CASE
                WHEN 'suspect' IN (steps.quality, steps.next_quality) THEN 'suspect'
                WHEN 'estimated' IN (steps.quality, steps.next_quality) THEN 'estimated'
                ELSE 'good'
            END AS quality,
            -- when both readings were
            CASE WHEN num_nonnulls(steps.available_at, steps.next_available_at) > 0 THEN greatest(
                coalesce(steps.available_at, steps.at + steps.available_after),
                coalesce(steps.next_available_at, steps.next_at + steps.available_after)
            ) END AS available_at
        FROM steps
        CROSS JOIN LATERAL (SELECT extract(epoch FROM steps.next_at - steps.at)::float8 AS seconds) AS gap
        CROSS JOIN LATERAL register_difference(
            CASE
                WHEN steps.next_value <= steps.value THEN NULL
                WHEN steps.last_value <> steps.value THEN steps.last_value
                ELSE (
                    SELECT value FROM register_readings
                    WHERE tenant_id = steps.tenant_id AND asset_id = steps.asset_id
                        AND "timestamp" < steps.at AND value <> steps.value
                    ORDER BY "timestamp" DESC LIMIT 1
                )
            END,
            steps.value, steps.next_value,
            CASE
                WHEN steps.next_value <= steps.value THEN NULL
                WHEN steps.second_value <> steps.next_value THEN steps.second_value
                ELSE (
                    SELECT value FROM register_readings
                    WHERE tenant_id = steps.tenant_id AND asset_id = steps.asset_id
                        AND "timestamp" > steps.next_at AND value <> steps.next_value
                    ORDER BY "timestamp" LIMIT 1
                )
            END,
            seconds, steps.register_digits, steps.capacity, steps.interval_seconds
        ) AS difference
        WHERE steps.next_at IS NOT NULL AND steps.at < steps.high
    ),
    written AS (
        INSERT INTO timeseries_data AS stored
            ("timestamp", tenant_id, asset_id, value, quality, interval_seconds, available_at)
        SELECT at, tenant_id, asset_id, counted, quality, greatest(round(seconds), 1), available_at
        FROM judged WHERE fault IS NULL
        ORDER BY tenant_id, asset_id, at
        ON CONFLICT (tenant_id, asset_id, "timestamp") DO UPDATE SET
            value = excluded.value, quality = excluded.quality, interval_seconds = excluded.interval_seconds,
            available_at = excluded.available_at, ingested_at = excluded.ingested_at
        WHERE (stored.value, stored.quality, stored.interval_seconds, stored.available_at)
            IS DISTINCT FROM (excluded.value, excluded.quality, excluded.interval_seconds, excluded.available_at)
    ),
    faults AS (
        SELECT
            tenant_id, asset_id, CASE fault WHEN 'gap' THEN 'register_gap' ELSE 'register_fault' END AS kind, at, next_at,
            CASE fault
                WHEN 'gap' THEN jsonb_build_object('amount', counted, 'hours', round((seconds / 3600)::numeric, 2))
                ELSE jsonb_build_object('reason', fault, 'before', value, 'after', next_value)
            END AS detail
        FROM judged WHERE fault IS NOT NULL
    ),
    put AS (
        INSERT INTO data_findings AS stored (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail)
        SELECT * FROM faults
        ON CONFLICT (tenant_id, asset_id, kind, subject, first_timestamp) DO UPDATE SET
            last_timestamp = excluded.last_timestamp, detail = excluded.detail, resolved_at = NULL,
            detected_at = CASE WHEN stored.resolved_at IS NULL THEN stored.detected_at ELSE now() END
        WHERE (stored.last_timestamp, stored.detail, stored.resolved_at)
            IS DISTINCT FROM (excluded.last_timestamp, excluded.detail, NULL::timestamptz)
    ),
    resolved AS (
        UPDATE data_findings AS stored SET resolved_at = now()
        FROM ranges
        WHERE stored.tenant_id = ranges.tenant_id AND stored.asset_id = ranges.asset_id
            AND stored.kind IN ('register_fault', 'register_gap') AND stored.resolved_at IS NULL
            AND stored.first_timestamp >= ranges.low AND stored.first_timestamp < ranges.high
            AND NOT EXISTS (
                SELECT FROM faults
                WHERE faults.tenant_id = stored.tenant_id AND faults.asset_id = stored.asset_id
                    AND faults.kind = stored.kind AND faults.at = stored.first_timestamp
            )
    )
    SELECT jsonb_agg(jsonb_build_array(tenant_id, asset_id, first_at, last_at, times)) INTO gone
    FROM (
        SELECT
            ranges.tenant_id, ranges.asset_id, min(amounts."timestamp") AS first_at, max(amounts."timestamp") AS last_at,
            array_agg(amounts."timestamp") AS times
        FROM ranges
        JOIN timeseries_data AS amounts ON amounts.tenant_id = ranges.tenant_id AND amounts.asset_id = ranges.asset_id
            AND amounts."timestamp" >= ranges.low AND amounts."timestamp" < ranges.high
        WHERE NOT EXISTS (
            SELECT FROM judged
            WHERE judged.tenant_id = amounts.tenant_id AND judged.asset_id = amounts.asset_id
                AND judged.at = amounts."timestamp" AND judged.fault IS NULL
        )
        GROUP BY ranges.tenant_id, ranges.asset_id
    ) AS outdated;
    -- literals, because only they let the columnstore open no more than the asset's own batches of these times
    FOR stale IN SELECT one FROM jsonb_array_elements(gone) AS one LOOP
        EXECUTE format(
            'DELETE FROM timeseries_data WHERE tenant_id = %L AND asset_id = %L'
            ' AND "timestamp" BETWEEN %L AND %L AND "timestamp" = ANY (%L::timestamptz[])',
            stale.one ->> 0, stale.one ->> 1, stale.one ->> 2, stale.one ->> 3,
            ARRAY(SELECT jsonb_array_elements_text(stale.one -> 4))
        );
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION note_register_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong     record;
    tenants   text[];
    assets_of text[];
    times     timestamptz[];
    firsts    timestamptz[];
    lasts     timestamptz[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT changed.tenant_id, changed.asset_id INTO wrong
        FROM (SELECT DISTINCT tenant_id, asset_id FROM changed) AS changed
        LEFT JOIN assets USING (tenant_id, asset_id)
        WHERE assets.reading IS DISTINCT FROM 'register' LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'asset % of tenant % is no register', wrong.asset_id, wrong.tenant_id
                USING ERRCODE = 'check_violation', HINT = 'Say so with `ai-hub asset add ASSET --reading register`.';
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(tenant_id), array_agg(asset_id), array_agg(at) INTO tenants, assets_of, times
        FROM (
            SELECT tenant_id, asset_id, "timestamp" AS at FROM changed
            UNION SELECT tenant_id, asset_id, "timestamp" FROM before
        ) AS written;
    ELSE
        SELECT array_agg(tenant_id), array_agg(asset_id), array_agg("timestamp") INTO tenants, assets_of, times FROM changed;
    END IF;
    IF times IS NULL THEN
        RETURN NULL;
    END IF;
    -- readings more than a day apart are ranges of their own
    WITH numbered AS (
        SELECT *, count(*) FILTER (WHERE is_first) OVER (PARTITION BY tenant_id, asset_id ORDER BY at) AS island
        FROM (
            SELECT
                *, (at - lag(at) OVER (PARTITION BY tenant_id, asset_id ORDER BY at) <= INTERVAL '1 day') IS NOT TRUE
                    AS is_first
            FROM unnest(tenants, assets_of, times) AS written (tenant_id, asset_id, at)
        ) AS steps
    )
    SELECT array_agg(tenant_id), array_agg(asset_id), array_agg(first_at), array_agg(last_at)
    INTO tenants, assets_of, firsts, lasts
    FROM (
        SELECT tenant_id, asset_id, min(at) AS first_at, max(at) AS last_at FROM numbered GROUP BY tenant_id, asset_id, island
    ) AS islands;
    PERFORM derive_from_registers(tenants, assets_of, firsts, lasts);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER registers_inserted AFTER INSERT ON register_readings
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_register_changes();
CREATE OR REPLACE TRIGGER registers_updated AFTER UPDATE ON register_readings
REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_register_changes();
CREATE OR REPLACE TRIGGER registers_deleted AFTER DELETE ON register_readings
REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_register_changes();

-- Amounts of a register are derived: whoever writes its readings where amounts belong is told where they go.
CREATE OR REPLACE FUNCTION refuse_amounts_of_registers() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    IF current_setting('ai_hub.deriving', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        SELECT tenant_id, asset_id INTO wrong
        FROM (SELECT DISTINCT tenant_id, asset_id FROM changed) AS written
        JOIN assets USING (tenant_id, asset_id) WHERE assets.reading = 'register' LIMIT 1;
    ELSE
        WITH written AS MATERIALIZED (SELECT DISTINCT tenant_id, asset_id FROM changed),
        registers AS MATERIALIZED (
            SELECT tenant_id, asset_id FROM written JOIN assets USING (tenant_id, asset_id) WHERE assets.reading = 'register'
        )
        SELECT tenant_id, asset_id INTO wrong
        FROM registers
        JOIN changed USING (tenant_id, asset_id)
        WHERE NOT EXISTS (
            SELECT FROM before
            WHERE before.tenant_id = changed.tenant_id AND before.asset_id = changed.asset_id
                AND before."timestamp" = changed."timestamp"
                AND (before.value, before.interval_seconds) IS NOT DISTINCT FROM (changed.value, changed.interval_seconds)
        )
        LIMIT 1;
    END IF;
    IF FOUND THEN
        RAISE EXCEPTION 'asset % of tenant % is a register', wrong.asset_id, wrong.tenant_id
            USING ERRCODE = 'check_violation',
                HINT = 'Write its readings to the table register_readings: timeseries_data follows from them.';
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER amounts_inserted AFTER INSERT ON timeseries_data
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION refuse_amounts_of_registers();
CREATE OR REPLACE TRIGGER amounts_updated AFTER UPDATE ON timeseries_data
REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION refuse_amounts_of_registers();

-- An asset that turns out to be a register, or to be none: its readings, as they were read, move to where they belong.
CREATE OR REPLACE FUNCTION move_register_readings() RETURNS trigger LANGUAGE plpgsql SET ai_hub.deriving = 'on' AS $$
BEGIN
    IF NEW.reading = 'register' THEN
        IF EXISTS (
            SELECT FROM timeseries_data WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id
                AND NOT (value >= 0 AND value < 'Infinity' AND isfinite("timestamp"))
        ) THEN
            RAISE EXCEPTION 'asset % of tenant % has readings below 0, which a register cannot have', NEW.asset_id, NEW.tenant_id
                USING ERRCODE = 'check_violation', HINT = 'Delete them with `ai-hub readings delete`.';
        END IF;
        -- the trigger of the insert derives, over the readings that were stored as amounts
        INSERT INTO register_readings ("timestamp", tenant_id, asset_id, value, quality, available_at, ingested_at)
        SELECT "timestamp", tenant_id, asset_id, value, quality, available_at, ingested_at FROM timeseries_data
        WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id;
        UPDATE data_findings SET resolved_at = now()
        WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id AND kind = 'looks_like_register' AND resolved_at IS NULL;
    ELSE
        INSERT INTO timeseries_data AS stored ("timestamp", tenant_id, asset_id, value, quality, available_at)
        SELECT "timestamp", tenant_id, asset_id, value, quality, available_at FROM register_readings
        WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id
        ON CONFLICT (tenant_id, asset_id, "timestamp") DO UPDATE SET
            value = excluded.value, quality = excluded.quality, interval_seconds = NULL,
            available_at = excluded.available_at, ingested_at = excluded.ingested_at;
        DELETE FROM register_readings WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id;
        UPDATE data_findings SET resolved_at = now()
        WHERE tenant_id = NEW.tenant_id AND asset_id = NEW.asset_id
            AND kind IN ('register_fault', 'register_gap') AND resolved_at IS NULL;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION derive_from_register() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM derive_from_registers(ARRAY[NEW.tenant_id], ARRAY[NEW.asset_id], '{-infinity}', '{infinity}');
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER register_added AFTER INSERT ON assets
FOR EACH ROW WHEN (NEW.reading = 'register') EXECUTE FUNCTION move_register_readings();
CREATE OR REPLACE TRIGGER register_changed AFTER UPDATE ON assets
FOR EACH ROW WHEN ((OLD.reading IS NOT DISTINCT FROM 'register') <> (NEW.reading IS NOT DISTINCT FROM 'register'))
EXECUTE FUNCTION move_register_readings();
CREATE OR REPLACE TRIGGER register_described AFTER UPDATE ON assets
FOR EACH ROW WHEN (
    OLD.reading = 'register' AND NEW.reading = 'register'
    AND (OLD.register_digits, OLD.capacity, OLD.interval_seconds, OLD.available_after)
        IS DISTINCT FROM (NEW.register_digits, NEW.capacity, NEW.interval_seconds, NEW.available_after)
)
EXECUTE FUNCTION derive_from_register();

-- Amounts whose interval nobody said have no value: one open finding an asset. Only rows that were not ingested can be so.
CREATE OR REPLACE FUNCTION note_unknown_intervals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- grouped before they are joined: of what a statement changed the planner knows no size, and compares each row with
    -- each asset
    WITH written AS MATERIALIZED (
        SELECT tenant_id, asset_id, min("timestamp") AS first_at, max("timestamp") AS last_at
        FROM changed
        WHERE interval_seconds IS NULL AND isfinite("timestamp")
        GROUP BY tenant_id, asset_id
    ),
    unknown AS (
        SELECT written.* FROM written JOIN assets USING (tenant_id, asset_id) WHERE is_amount AND interval_seconds IS NULL
    ),
    grown AS (
        UPDATE data_findings AS stored SET last_timestamp = greatest(last_timestamp, last_at)
        FROM unknown
        WHERE stored.tenant_id = unknown.tenant_id AND stored.asset_id = unknown.asset_id
            AND kind = 'unknown_interval' AND resolved_at IS NULL
        RETURNING stored.tenant_id, stored.asset_id
    )
    INSERT INTO data_findings AS stored (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail)
    SELECT tenant_id, asset_id, 'unknown_interval', first_at, last_at, '{}' FROM unknown
    WHERE NOT EXISTS (
        SELECT FROM grown WHERE grown.tenant_id = unknown.tenant_id AND grown.asset_id = unknown.asset_id
    )
    ON CONFLICT (tenant_id, asset_id, kind, subject, first_timestamp) DO UPDATE SET
        last_timestamp = greatest(stored.last_timestamp, excluded.last_timestamp), resolved_at = NULL, detected_at = now();
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER intervals_unknown AFTER INSERT ON timeseries_data
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_unknown_intervals();

-- The same from all that is stored of an asset, after a change of what it is or of its readings.
CREATE OR REPLACE FUNCTION review_unknown_interval(tenant text, asset text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_at timestamptz;
    last_at  timestamptz;
BEGIN
    SELECT min("timestamp"), max("timestamp") INTO first_at, last_at
    FROM timeseries_data
    WHERE tenant_id = tenant AND asset_id = asset AND interval_seconds IS NULL AND isfinite("timestamp")
        AND EXISTS (
            SELECT FROM assets
            WHERE tenant_id = tenant AND asset_id = asset AND is_amount AND assets.interval_seconds IS NULL
        );
    UPDATE data_findings SET resolved_at = now()
    WHERE tenant_id = tenant AND asset_id = asset AND kind = 'unknown_interval' AND resolved_at IS NULL
        AND first_timestamp IS DISTINCT FROM first_at;
    INSERT INTO data_findings AS stored (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail)
    SELECT tenant, asset, 'unknown_interval', first_at, last_at, '{}' WHERE first_at IS NOT NULL
    ON CONFLICT (tenant_id, asset_id, kind, subject, first_timestamp) DO UPDATE SET
        last_timestamp = excluded.last_timestamp, resolved_at = NULL,
        detected_at = CASE WHEN stored.resolved_at IS NULL THEN stored.detected_at ELSE now() END;
END
$$;
CREATE OR REPLACE FUNCTION review_asset_interval() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM review_unknown_interval(NEW.tenant_id, NEW.asset_id);
    RETURN NULL;
END
$$;
-- after the triggers that move readings, by their names
CREATE OR REPLACE TRIGGER unknown_interval_added AFTER INSERT ON assets
FOR EACH ROW WHEN (NEW.is_amount AND NEW.interval_seconds IS NULL) EXECUTE FUNCTION review_asset_interval();
CREATE OR REPLACE TRIGGER unknown_interval_changed AFTER UPDATE ON assets
FOR EACH ROW WHEN (
    (OLD.is_amount, OLD.interval_seconds, OLD.reading) IS DISTINCT FROM (NEW.is_amount, NEW.interval_seconds, NEW.reading)
)
EXECUTE FUNCTION review_asset_interval();

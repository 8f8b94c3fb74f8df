-- Registers: readings that count on, kept as they were read. Amounts per interval are derived from them (012_registers.sql).

CREATE OR REPLACE FUNCTION reading_scale(unit text, reading text) RETURNS reading_scale
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ROW (
        CASE WHEN reading IS NULL THEN known.is_amount ELSE reading <> 'power' END,
        CASE
            WHEN known.unit IS NOT NULL AND (reading IS NULL OR known.is_amount = (reading <> 'power')) THEN known.factor
            WHEN known.unit IS NULL AND reading IS NOT NULL THEN 1
        END,
        CASE
            WHEN known.unit IS NOT NULL THEN known.feature_unit
            WHEN reading IN ('energy', 'register') THEN coalesce($1, '') || '/h'
            ELSE $1
        END
    )::public.reading_scale
    FROM (SELECT) AS one
    LEFT JOIN (VALUES
        ('wh',    true,  0.001,               'kW'),
        ('kwh',   true,  1,                   'kW'),
        ('mwh',   true,  1000,                'kW'),
        ('gwh',   true,  1000000,             'kW'),
        ('mj',    true,  1 / 3.6::float8,     'kW'),
        ('gj',    true,  1000 / 3.6::float8,  'kW'),
        ('btu',   true,  1055.05585262::float8 / 3600000,   'kW'),
        ('therm', true,  105505585.262::float8 / 3600000,   'kW'),
        ('w',     false, 0.001,               'kW'),
        ('kw',    false, 1,                   'kW'),
        ('mw',    false, 1000,                'kW'),
        ('gw',    false, 1000000,             'kW'),
        ('l',     true,  0.001,               'm3/h'),
        ('m3',    true,  1,                   'm3/h'),
        ('ft3',   true,  0.028316846592,      'm3/h'),
        ('ccf',   true,  2.8316846592,        'm3/h'),
        ('gal',   true,  0.003785411784,      'm3/h')
    ) AS known (unit, is_amount, factor, feature_unit) ON known.unit = lower($1)
$$;

ALTER TABLE assets
    DROP CONSTRAINT assets_reading_check,
    ADD CONSTRAINT assets_reading_check CHECK (reading IN ('energy', 'power', 'register')),
    -- whole digits of a register, after which it begins at 0 again; NULL: not said
    ADD COLUMN register_digits integer CHECK (register_digits BETWEEN 1 AND 15);

-- In the asset's unit. timeseries_data has what was counted between two of them, at the time of the first.
CREATE TABLE register_readings (
    "timestamp" timestamptz NOT NULL CHECK (isfinite("timestamp")),
    tenant_id   text NOT NULL,
    asset_id    text NOT NULL,
    value       double precision NOT NULL CHECK (value >= 0 AND value < 'Infinity'),
    quality     text NOT NULL DEFAULT 'good' CHECK (quality IN ('good', 'estimated', 'suspect')),
    ingested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, asset_id, "timestamp")
);
SELECT create_hypertable('register_readings', by_range('timestamp', INTERVAL '30 days'), create_default_indexes => false);

ALTER TABLE data_findings
    DROP CONSTRAINT data_findings_kind_check,
    ADD CONSTRAINT data_findings_kind_check CHECK (kind IN (
        'gap', 'stuck', 'skipped_hour', 'repeated_hour',
        'register_fault', 'register_gap', 'looks_like_register', 'unknown_interval'
    ));

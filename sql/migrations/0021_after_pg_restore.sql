-- pg_restore makes tables with no schema in the search path, so what a generated column calls names its own.
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
            WHEN reading = 'energy' THEN coalesce($1, '') || '/h'
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

-- What was granted when the code was applied: a dump that is restored elsewhere comes without roles, often without rights.
ALTER TABLE schema_code ADD COLUMN rights text[];

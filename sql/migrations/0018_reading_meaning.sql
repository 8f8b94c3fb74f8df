-- What a reading is: energy (or volume) per interval, or mean power (or flow).

-- Amounts over an interval and rates, in kW for energy and power, in m3/h for volume and flow. `factor` turns an amount
-- into the canonical amount of an hour, a rate into the canonical rate. NULL is_amount: nothing is known of the series, and
-- it is averaged as it is. NULL factor: unit and reading contradict each other, and there is no value.
CREATE TYPE reading_scale AS (is_amount boolean, factor double precision, feature_unit text);

CREATE FUNCTION reading_scale(unit text, reading text) RETURNS reading_scale
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
    )::reading_scale
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
    -- energy: the amount of each interval; power: its mean rate. NULL: the unit decides
    ADD COLUMN reading          text CHECK (reading IN ('energy', 'power')),
    -- of readings that do not say their own
    ADD COLUMN interval_seconds integer CHECK (interval_seconds > 0),
    ADD COLUMN is_amount        boolean GENERATED ALWAYS AS ((reading_scale(unit, reading)).is_amount) STORED,
    ADD COLUMN unit_factor      double precision GENERATED ALWAYS AS ((reading_scale(unit, reading)).factor) STORED,
    -- what its features and forecasts are in
    ADD COLUMN feature_unit     text GENERATED ALWAYS AS ((reading_scale(unit, reading)).feature_unit) STORED;

-- How long the interval is that a reading covers; it begins at "timestamp". NULL: as long as the asset's.
ALTER TABLE timeseries_data ADD COLUMN interval_seconds integer CHECK (interval_seconds > 0);

-- When a reading became known to those who forecast, where the file says it; NULL: by the rule of its asset
-- (assets.available_after).
ALTER TABLE timeseries_data
    ADD COLUMN available_at timestamptz CHECK (available_at >= "timestamp" AND isfinite(available_at));
ALTER TABLE register_readings
    ADD COLUMN available_at timestamptz CHECK (available_at >= "timestamp" AND isfinite(available_at));

-- The longest time from a reading of the asset to its available_at; NULL: none is given.
ALTER TABLE asset_spans ADD COLUMN longest_delay interval;

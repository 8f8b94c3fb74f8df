-- Since when an asset has its weather station and its time zone, kept by the trigger asset_times. None: an asset of before,
-- which has not changed since.
ALTER TABLE assets ADD COLUMN weather_since timestamptz, ADD COLUMN timezone_since timestamptz;
ALTER TABLE assets ALTER COLUMN weather_since SET DEFAULT now(), ALTER COLUMN timezone_since SET DEFAULT now();

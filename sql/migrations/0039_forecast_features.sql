-- What the model of a run was given, as zlib of little-endian doubles in the order that features_sha256 of details is
-- about; none: the same is read from history as known at known_at.
ALTER TABLE forecast_runs ADD COLUMN features bytea;

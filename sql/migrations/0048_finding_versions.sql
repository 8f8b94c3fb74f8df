-- Which version a finding is of: the forecasts of the days that were judged are its own. None: found before, or stale.
ALTER TABLE model_findings ADD COLUMN version integer CHECK (version > 0);

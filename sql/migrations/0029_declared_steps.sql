-- Declared views have rows every 15 or 30 minutes, every hour or every day.

ALTER TABLE declared_views
    -- of a day 24 hours: its rows are at midnight in the asset's time zone
    ADD COLUMN step interval NOT NULL DEFAULT '1 hour'
        CHECK (step IN (INTERVAL '15 minutes', INTERVAL '30 minutes', INTERVAL '1 hour', INTERVAL '24 hours'));
-- declared_reaches counts in steps of its view.

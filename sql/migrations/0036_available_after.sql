-- After the end of a step, when its readings become available: what a forecast could know when it was issued, also where
-- readings were imported long after.
ALTER TABLE assets
    ADD COLUMN available_after interval NOT NULL DEFAULT '0'
        CHECK (available_after >= INTERVAL '0' AND available_after <= INTERVAL '90 days');

-- Which taking-up of an export job a file is of: a clean-up that comes late spares the files of later ones.

-- Grows by one each time the job is taken up, and never falls, as `attempts` does for those that do not count.
ALTER TABLE feature_exports ADD COLUMN fence bigint NOT NULL DEFAULT 0;
UPDATE feature_exports SET fence = attempts;

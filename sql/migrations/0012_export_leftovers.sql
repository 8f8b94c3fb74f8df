-- Files that an export job left where its store was away at the end.

-- of a failed job that may have left some: when to try again to remove them
ALTER TABLE feature_exports ADD COLUMN clean_after timestamptz;
CREATE INDEX feature_exports_leftovers ON feature_exports (clean_after) WHERE clean_after IS NOT NULL;

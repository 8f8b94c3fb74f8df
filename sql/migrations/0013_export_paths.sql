-- A path belongs to a completed export as long as its files are there, which the database cannot know.

DROP INDEX feature_exports_by_path;
CREATE UNIQUE INDEX feature_exports_by_path ON feature_exports (tenant_id, output_path)
    WHERE status IN ('pending', 'running');

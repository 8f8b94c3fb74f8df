-- Files of exports that are removed after some days, and by request.

-- of a completed job: when its files were removed because of their age
ALTER TABLE feature_exports ADD COLUMN expired_at timestamptz;
CREATE INDEX feature_exports_kept ON feature_exports (completed_at) WHERE status = 'completed' AND expired_at IS NULL;

-- Checksums of the files of a partitioned export: SHA-256 by path below it. Its own sha256 is that of all of them together.
ALTER TABLE feature_exports ADD COLUMN file_sha256 jsonb;

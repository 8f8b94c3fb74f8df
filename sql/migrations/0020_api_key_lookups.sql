-- Keys are read by their ids and by tenant, however many there are; jobs are counted by an index alone.

-- One row: grows with every change or deletion of a key, so that a service sees by it that its keys may have changed.
CREATE TABLE api_key_revision (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision bigint NOT NULL DEFAULT 0
);
INSERT INTO api_key_revision DEFAULT VALUES;

CREATE INDEX api_keys_by_tenant ON api_keys USING gin (tenants);
CREATE INDEX api_keys_by_time ON api_keys (created_at DESC, key_id);
CREATE INDEX feature_exports_by_status ON feature_exports (status);

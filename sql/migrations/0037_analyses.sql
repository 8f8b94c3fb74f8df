-- What the REST service has answered about a tenant's series and models, found again by its id.

CREATE TABLE analyses (
    analysis_id uuid PRIMARY KEY,
    tenant_id   text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('anomalies', 'explanation')),
    -- the asset or the model
    subject     text NOT NULL,
    method      text NOT NULL,
    -- as it was sent, in the order of its fields
    answer      json NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX analyses_by_tenant ON analyses (tenant_id, created_at DESC);
-- 070_tenant_wall.sql adds the policy; until then nobody but the owner sees a row
ALTER TABLE analyses ENABLE ROW LEVEL SECURITY;

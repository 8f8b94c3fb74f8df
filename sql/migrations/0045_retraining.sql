-- Requests to train a model anew: proposed by rule, decided by a person or by policy, then done by the job of the same
-- id. See docs/retraining.md.
ALTER TABLE model_findings ADD COLUMN finding_id uuid NOT NULL DEFAULT gen_random_uuid();

CREATE TABLE retrain_policies (
    tenant_id     text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    -- empty: every model of the tenant that has none of its own
    model         text NOT NULL,
    -- none of these: that of the tenant, else the default
    automatic     boolean,
    max_age_days  integer CHECK (max_age_days > 0),
    cooldown_days integer CHECK (cooldown_days >= 0),
    PRIMARY KEY (tenant_id, model)
);

CREATE TABLE retrain_requests (
    request_id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id            text NOT NULL CHECK (tenant_id ~ '^[a-z0-9][a-z0-9-]*$'),
    model                text NOT NULL CHECK (model <> ''),
    -- in production when it was proposed
    version              integer NOT NULL CHECK (version > 0),
    semantic_version     text,
    -- by cause: error, drift, age, assets, request
    evidence             jsonb NOT NULL CHECK (evidence <> '{}'),
    -- approved: its job waits or runs; the end of the job is that of the request
    status               text NOT NULL DEFAULT 'proposed' CHECK (status IN (
        'proposed', 'approved', 'rejected', 'withdrawn', 'completed', 'failed'
    )),
    proposed_at          timestamptz NOT NULL DEFAULT now(),
    decided_by           text,
    decided_at           timestamptz,
    reason               text,
    ended_at             timestamptz,
    new_version          integer,
    new_semantic_version text,
    error                text,
    -- when the receivers of notifications were told of the proposal
    notified_at          timestamptz
);
CREATE UNIQUE INDEX retrain_requests_open ON retrain_requests (tenant_id, model) WHERE status IN ('proposed', 'approved');
CREATE INDEX retrain_requests_by_time ON retrain_requests (tenant_id, proposed_at);

-- Findings about models: live scores worse than their own history, and forecasts that stopped. See ai_hub.forecasting.findings.
CREATE TABLE model_findings (
    tenant_id   text NOT NULL,
    model       text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('error', 'bias', 'coverage', 'stale')),
    since       timestamptz NOT NULL,
    detail      jsonb NOT NULL,
    detected_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz
);
CREATE UNIQUE INDEX model_findings_open ON model_findings (tenant_id, model, kind) WHERE resolved_at IS NULL;
CREATE INDEX model_findings_by_time ON model_findings (tenant_id, detected_at);

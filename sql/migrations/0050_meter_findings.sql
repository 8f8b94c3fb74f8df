-- Findings about single meters of a model. See ai_hub.forecasting.findings.
ALTER TABLE model_findings DROP CONSTRAINT model_findings_kind_check;
ALTER TABLE model_findings ADD CONSTRAINT model_findings_kind_check CHECK (kind IN ('error', 'bias', 'coverage', 'stale', 'meters'));

-- Scores also say what the quantiles are worth, and what naive forecasts would have been.

ALTER TABLE forecast_scores
    -- quantiles with an actual value, and the sum of their pinball losses
    ADD COLUMN quantiles integer NOT NULL DEFAULT 0,
    ADD COLUMN pinball double precision NOT NULL DEFAULT 0,
    -- hours with both naive forecasts, and the absolute errors of the forecasts and of these for them
    ADD COLUMN compared integer NOT NULL DEFAULT 0,
    ADD COLUMN compared_absolute double precision NOT NULL DEFAULT 0,
    ADD COLUMN naive_day double precision NOT NULL DEFAULT 0,
    ADD COLUMN naive_week double precision NOT NULL DEFAULT 0;

INSERT INTO forecast_scores_due
SELECT tenant_id, asset_id, unnest(range_agg(tstzrange(issued_at, least(issued_at + horizon, now()))))
FROM forecast_runs, unnest(assets) AS asset_id WHERE issued_at < now() GROUP BY tenant_id, asset_id;

-- What forecasts of the log were worth: sums by day (UTC) and lead that add up to those of any longer time. Kept by
-- refreshes, also after the forecasts themselves are gone.

CREATE TABLE forecast_scores (
    tenant_id   text NOT NULL,
    asset_id    text NOT NULL,
    day         date NOT NULL,
    model       text NOT NULL,
    -- MLflow's number; 0: not registered
    version     integer NOT NULL,
    role        text NOT NULL,
    -- of the values; empty: nobody said it
    unit        text NOT NULL,
    -- from so many hours before the hour that is forecast on, for six hours
    lead_hours  integer NOT NULL,
    -- hours with a forecast and a measured value
    hours       integer NOT NULL CHECK (hours > 0),
    -- of forecast minus actual
    error       double precision NOT NULL,
    absolute    double precision NOT NULL,
    squared     double precision NOT NULL,
    -- of absolute actual values
    actual      double precision NOT NULL,
    -- hours with a band that has a width or is wrong, those of them with the actual value within it, and the widths
    banded      integer NOT NULL,
    covered     integer NOT NULL,
    width       double precision NOT NULL,
    PRIMARY KEY (tenant_id, asset_id, day, model, version, role, unit, lead_hours),
    FOREIGN KEY (tenant_id, asset_id) REFERENCES assets ON DELETE CASCADE
);
CREATE INDEX forecast_scores_by_day ON forecast_scores (tenant_id, day);

-- Hours of assets whose scores are to be computed: something was measured or forecast. Those of a plan of a refresh wait
-- until its aggregates have caught up.
CREATE TABLE forecast_scores_due (
    tenant_id text NOT NULL,
    asset_id  text NOT NULL,
    hours     tstzrange NOT NULL,
    plan_id   bigint
);
INSERT INTO forecast_scores_due
SELECT tenant_id, asset_id, unnest(range_agg(tstzrange(issued_at, issued_at + horizon)))
FROM forecast_runs, unnest(assets) AS asset_id GROUP BY tenant_id, asset_id;

-- Feature views that a Feast repository declares (feast_plugins/windows): what is generated for them, and what of
-- their rows is stored. Their own tables and views are made by `feast apply`.

CREATE TABLE declared_views (
    view_name   name PRIMARY KEY,
    project     text NOT NULL,
    -- expression of each feature
    declaration jsonb NOT NULL,
    -- of the generated statements and views
    sha256      text NOT NULL,
    -- computes a batch of rows and stores those that differ
    statement   text NOT NULL,
    -- counts the changes of what stored features mean; older rows are no longer present
    generation  integer NOT NULL DEFAULT 1,
    -- of each stored feature: the generation since which it means what it does
    meanings    jsonb NOT NULL,
    -- each refresh computes what is missing from this hour on; the hours before wait for a backfill
    filled_from timestamptz NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    -- its registry has it no longer or is about to: the view goes with the next `feast apply`
    leaving     boolean NOT NULL DEFAULT false
);

-- When what features meant before was known no longer.
CREATE TABLE declared_generations (
    view_name  name NOT NULL REFERENCES declared_views ON DELETE CASCADE,
    generation integer NOT NULL,
    ended_at   timestamptz NOT NULL,
    PRIMARY KEY (view_name, generation)
);

-- A change of this source in hour h touches the rows of [h + nearest, h + farthest].
CREATE TABLE declared_reaches (
    view_name name NOT NULL REFERENCES declared_views ON DELETE CASCADE,
    source    text NOT NULL CHECK (source IN ('readings', 'weather')),
    nearest   integer NOT NULL CHECK (nearest >= 0),
    farthest  integer NOT NULL CHECK (farthest >= nearest),
    PRIMARY KEY (view_name, source, nearest)
);

-- Hours of an asset whose rows are stored, in the view's present generation.
CREATE TABLE declared_spans (
    view_name name NOT NULL REFERENCES declared_views ON DELETE CASCADE,
    tenant_id text NOT NULL,
    asset_id  text NOT NULL,
    stored    tstzmultirange NOT NULL DEFAULT '{}',
    PRIMARY KEY (view_name, tenant_id, asset_id)
);
CREATE INDEX declared_spans_by_asset ON declared_spans (tenant_id, asset_id);

-- Rows a refresh has still to compute, see feature_refresh_ranges.
CREATE TABLE declared_refresh_ranges (
    view_name  name NOT NULL REFERENCES declared_views ON DELETE CASCADE,
    tenant_id  text NOT NULL,
    asset_id   text NOT NULL,
    first_hour timestamptz NOT NULL,
    end_hour   timestamptz NOT NULL CHECK (end_hour > first_hour),
    plan_id    bigint NOT NULL,
    place      bigint NOT NULL,
    aggregated boolean NOT NULL DEFAULT false,
    PRIMARY KEY (view_name, tenant_id, asset_id, first_hour)
);
CREATE INDEX declared_refresh_ranges_due ON declared_refresh_ranges (place) WHERE aggregated;

-- What an asset's readings mean, or whose weather it uses: all of its rows.
ALTER TABLE feature_changes DROP CONSTRAINT feature_changes_source_check;
ALTER TABLE feature_changes ADD CONSTRAINT feature_changes_source_check
    CHECK (source IN ('readings', 'deletion', 'weather', 'periods', 'asset'));

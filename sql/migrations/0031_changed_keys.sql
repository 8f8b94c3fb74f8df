-- An asset has another price zone, group or weather station (keys), or another time zone (zone): only some declared views
-- look at them.

ALTER TABLE feature_changes DROP CONSTRAINT feature_changes_source_check;
ALTER TABLE feature_changes ADD CONSTRAINT feature_changes_source_check CHECK (
    source IN ('readings', 'deletion', 'weather', 'periods', 'asset', 'keys', 'zone') AND asset_id IS NOT NULL
    OR source = 'series' AND series IS NOT NULL AND zone IS NOT NULL
    OR source = 'group' AND zone IS NOT NULL
);

-- Which readings of its hours a change is of: rows of a quarter hour need no more. NULL: of any.
ALTER TABLE feature_changes ADD COLUMN first_at timestamptz, ADD COLUMN last_at timestamptz;

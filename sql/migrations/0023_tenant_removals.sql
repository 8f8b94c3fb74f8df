-- Whole tenants are removed, too: with their rows, or only shut out while these stay (`tenant kept`).
ALTER TABLE removals DROP CONSTRAINT removals_kind_check;
ALTER TABLE removals
    ADD CONSTRAINT removals_kind_check CHECK (kind IN ('readings', 'asset', 'tenant', 'tenant kept'));

-- Placeholder: another branch writes 0005.
SELECT 1;

-- The wall's views stand on others that are made anew; 070_tenant_wall.sql puts it up again in the same transaction.
DROP SCHEMA IF EXISTS tenant_wall CASCADE;

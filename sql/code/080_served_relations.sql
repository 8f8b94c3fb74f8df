-- Tables and views of users that Feast's sources name, inside the tenant wall: `feast apply` calls serve_source for
-- each of them. One with a column tenant_id shows the tenant's rows; any other one is the same for every tenant, and
-- is served only where its source says so (tag shared: "true").

-- Relations of the hub that nobody is served, whatever a source says.
CREATE FUNCTION tenant_wall.is_served(relation name) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT relation NOT IN (
        'api_keys', 'api_key_revision', 'sql_logins', 'schema_migrations', 'schema_code', 'served_relations',
        'feature_refreshes', 'declared_views', 'declared_generations', 'declared_reaches', 'declared_spans',
        'declared_refresh_ranges', 'declared_due', 'declared_progress',
        'forecast_scores_due'
    )
$$;

CREATE FUNCTION tenant_wall.columns_of(relation regclass) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;

-- Serves one relation of the schema public; returns why not, or nothing.
CREATE FUNCTION tenant_wall.serve(relation name, is_shared boolean) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source     regclass := to_regclass(format('public.%I', relation));
    present    regclass := to_regclass(format('tenant_wall.%I', relation));
    is_user    boolean  := EXISTS (SELECT FROM public.served_relations AS served WHERE served.relation = serve.relation);
    has_tenant boolean  := EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = source AND attname = 'tenant_id' AND NOT attisdropped
    );
    definition text := format('SELECT * FROM public.%I', relation);
BEGIN
    IF NOT tenant_wall.is_served(relation) THEN
        RETURN 'it is the hub''s own';
    END IF;
    -- of the hub's relations only assets and what is declared can have grown a column
    IF present IS NOT NULL AND NOT is_user THEN
        IF relation IN ('assets', 'ai_features', 'ai_features_versions') AND tenant_wall.columns_of(present) <> tenant_wall.columns_of(source) THEN
            EXECUTE format(
                'CREATE OR REPLACE VIEW tenant_wall.%I WITH (security_barrier) AS %s'
                ' WHERE tenant_id = (SELECT tenant_wall.current_tenant())', relation, definition
            );
        END IF;
        RETURN NULL;
    END IF;
    IF NOT has_tenant AND NOT is_shared THEN
        RETURN 'it has no column tenant_id; if its rows are the same for every tenant, '
            'give the source the tag shared: "true"';
    END IF;
    IF present IS NULL OR tenant_wall.columns_of(present) <> tenant_wall.columns_of(source)
        OR NOT EXISTS (
            SELECT FROM public.served_relations AS served
            WHERE served.relation = serve.relation AND shared = NOT has_tenant
        )
    THEN
        IF has_tenant THEN
            definition := definition || ' WHERE tenant_id = (SELECT tenant_wall.current_tenant())';
        END IF;
        EXECUTE format('DROP VIEW IF EXISTS tenant_wall.%I', relation);
        EXECUTE format('CREATE VIEW tenant_wall.%I WITH (security_barrier) AS %s', relation, definition);
        EXECUTE format('GRANT SELECT ON tenant_wall.%I TO ai_hub_service', relation);
        INSERT INTO public.served_relations VALUES (serve.relation, NOT has_tenant)
        ON CONFLICT ON CONSTRAINT served_relations_pkey DO UPDATE SET shared = excluded.shared;
    END IF;
    RETURN NULL;
END
$$;

-- Serves what a source reads, a table or a query in parentheses; returns what is not served, and why.
CREATE FUNCTION tenant_wall.serve_source(source text, is_shared boolean)
RETURNS TABLE (relation text, problem text)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    found   record;
BEGIN
    -- the server knows best which relations a query reads
    EXECUTE format('CREATE VIEW tenant_wall.probed AS SELECT * FROM %s AS source', source);
    FOR found IN
        SELECT DISTINCT relname, nspname FROM pg_catalog.pg_rewrite AS rule
            JOIN pg_catalog.pg_depend AS needs ON needs.classid = 'pg_rewrite'::regclass
                AND needs.objid = rule.oid AND needs.refclassid = 'pg_class'::regclass
            JOIN pg_catalog.pg_class AS class ON class.oid = needs.refobjid
            JOIN pg_catalog.pg_namespace AS schema ON schema.oid = relnamespace
        WHERE rule.ev_class = 'tenant_wall.probed'::regclass AND class.oid <> rule.ev_class
        ORDER BY relname
    LOOP
        relation := found.relname;
        IF found.nspname = 'public' THEN
            problem := tenant_wall.serve(found.relname, is_shared);
        ELSE
            problem := format('it is in the schema %s; the service reads the schema public alone', found.nspname);
        END IF;
        IF problem IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    DROP VIEW tenant_wall.probed;
END
$$;
REVOKE EXECUTE ON FUNCTION tenant_wall.is_served, tenant_wall.columns_of, tenant_wall.serve, tenant_wall.serve_source
    FROM PUBLIC;

-- The wall was made anew: those that were served before, as far as they are still there.
DELETE FROM served_relations WHERE to_regclass(format('public.%I', relation)) IS NULL;
SELECT tenant_wall.serve(relation, shared) FROM served_relations;

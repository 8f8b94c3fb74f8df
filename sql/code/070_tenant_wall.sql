-- The second wall between tenants: views of the same names that hold one tenant's rows, and roles that can read
-- nothing else, whatever SQL they send. Continuous aggregates and the columnstore take no row-level security.

-- Roles belong to the whole server, so another database's migration may be making the same ones now.
DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['ai_hub_service', 'ai_hub_tenant'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

-- Nobody but the owner makes anything here, not even for a session.
DO $$ BEGIN EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
DO $$
DECLARE
    open_to_all regprocedure;
BEGIN
    -- TimescaleDB lets everybody run jobs in the background, PostgreSQL lets everybody keep large objects: up to version
    -- 15 in sessions that are read-only, too. A superuser's functions are not to be changed by others.
    FOR open_to_all IN
        SELECT oid FROM pg_proc
        WHERE (pronamespace = 'public'::regnamespace AND proname = 'add_job'
                OR pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^(lo_.*|loread|lowrite)$')
            AND pg_has_role(proowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', open_to_all);
    END LOOP;
END
$$;

CREATE SCHEMA tenant_wall;
GRANT USAGE ON SCHEMA tenant_wall TO ai_hub_service, ai_hub_tenant;

-- Of the service: the tenant it has named for the transaction. Of any other login: the one it is bound to, which
-- SQL cannot change, because session_user is who logged in. No tenant, no rows.
CREATE FUNCTION tenant_wall.current_tenant() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_has_role(session_user, 'ai_hub_service', 'MEMBER') THEN
        RETURN nullif(current_setting('ai_hub.tenant', true), '');
    END IF;
    RETURN (SELECT tenant_id FROM public.sql_logins WHERE login = session_user);
END
$$;

-- A barrier: no function of a query meets a row before the tenant is compared, unless it is known not to leak.
-- As a subquery the tenant is found out once a query, and can be an index condition.
DO $$
DECLARE
    relation   name;
    definition text;
BEGIN
    FOREACH relation IN ARRAY ARRAY[
        'assets', 'timeseries_data', 'register_readings', 'weather_features', 'covariates', 'covariate_series', 'hourly_features', 'daily_features', 'hourly_values',
        'ai_features', 'ai_features_versions', 'asset_spans', 'declared_rows',
        'forecast_basic_features', 'forecast_basic_feature_versions',
        'forecast_advanced_features', 'forecast_advanced_feature_versions',
        'anomaly_detection_features', 'anomaly_detection_feature_versions',
        'quality_policies', 'quarantined_rows', 'data_findings', 'jobs', 'feature_exports',
        'forecast_runs', 'forecasts', 'forecast_scores', 'model_findings', 'analyses', 'retrain_requests', 'retrain_policies',
        'imports', 'import_hours', 'served_features'
    ] LOOP
        definition := format('SELECT * FROM public.%I', relation);
        IF relation = 'feature_exports' THEN
            -- that view asks for the caller's rights to jobs, also from within another view
            definition := coalesce(
                'SELECT * FROM (' || rtrim(pg_get_viewdef('public.feature_exports'::regclass), ';') || ') AS exports', definition
            );
        END IF;
        EXECUTE format(
            'CREATE VIEW tenant_wall.%I WITH (security_barrier) AS
                %s WHERE tenant_id = (SELECT tenant_wall.current_tenant())',
            relation, definition
        );
        EXECUTE format('GRANT SELECT ON tenant_wall.%I TO ai_hub_service, ai_hub_tenant', relation);
    END LOOP;
END
$$;
-- the same for everybody
CREATE VIEW tenant_wall.feature_hours AS SELECT hour FROM public.feature_hours;
GRANT SELECT ON tenant_wall.feature_hours TO ai_hub_service, ai_hub_tenant;

-- The service's only writes: jobs, forecasts and other answers, decisions on retraining, each of the tenant of its transaction.
ALTER VIEW tenant_wall.jobs SET (check_option = local);
ALTER VIEW tenant_wall.forecast_runs SET (check_option = local);
ALTER VIEW tenant_wall.forecasts SET (check_option = local);
GRANT INSERT, UPDATE, DELETE ON tenant_wall.jobs TO ai_hub_service;
GRANT INSERT ON tenant_wall.forecast_runs, tenant_wall.forecasts TO ai_hub_service;
ALTER VIEW tenant_wall.served_features SET (check_option = local);
GRANT INSERT, DELETE ON tenant_wall.served_features TO ai_hub_service;
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON jobs USING (tenant_id = (SELECT tenant_wall.current_tenant()));
ALTER VIEW tenant_wall.analyses SET (check_option = local);
GRANT INSERT, DELETE ON tenant_wall.analyses TO ai_hub_service;
ALTER TABLE analyses ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON analyses USING (tenant_id = (SELECT tenant_wall.current_tenant()));
ALTER VIEW tenant_wall.retrain_requests SET (check_option = local);
GRANT UPDATE (status, decided_by, decided_at, reason, ended_at) ON tenant_wall.retrain_requests TO ai_hub_service;
ALTER TABLE retrain_requests ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON retrain_requests USING (tenant_id = (SELECT tenant_wall.current_tenant()));

-- Hashes, to compare keys with.
GRANT SELECT ON api_keys TO ai_hub_service;

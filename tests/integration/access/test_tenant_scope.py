# ruff: noqa: E501, S608 - an attempt to a line
from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from support.scoped_database import FOREIGN, FOREIGN_VALUE, OURS, is_timescale, scoped_database

from ai_hub.access import sql_logins
from ai_hub.db import connect
from ai_hub.db.tenant_scope import as_tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

RELATIONS = (
    *(
        "assets",
        "timeseries_data",
        "register_readings",
        "weather_features",
        "hourly_features",
        "daily_features",
    ),
    *("ai_features", "ai_features_versions", "asset_spans", "declared_rows"),
    *("forecast_basic_features", "forecast_basic_feature_versions"),
    *("forecast_advanced_features", "forecast_advanced_feature_versions", "anomaly_detection_features"),
    *("anomaly_detection_feature_versions", "quarantined_rows", "data_findings", "feature_exports", "jobs"),
    *("hourly_values", "quality_policies", "covariates", "covariate_series", "forecasts", "forecast_runs"),
    *("forecast_scores", "model_findings", "analyses", "retrain_requests", "retrain_policies"),
    *("imports", "import_hours", "served_features"),
)
#: Tables with tenants in them that are in nobody's scope: what the database itself works with.
OUTSIDE = {
    "feature_changes", "feature_demand", "data_checks_due", "backfill_files", "sql_logins",
    "hourly_features_stored", "ai_features_stored",
    "removals", "reading_bounds", "declared_spans", "declared_refresh_ranges", "declared_due", "forecast_scores_due",
}  # fmt: skip
SNEAKY = "CREATE FUNCTION {}leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"

#: Each is one visit of a tenant's login; errors are fine, foreign rows are not.
ATTEMPTS: dict[str, tuple[str, ...]] = {
    # rows of the other tenant, asked for directly
    **{f"all of {name}": (f"SELECT * FROM {name}",) for name in RELATIONS},
    **{f"theirs in {name}": (f"SELECT * FROM {name} WHERE tenant_id = 'theirs'",) for name in RELATIONS},
    **{f"past the scope: {name}": (f"SELECT * FROM public.{name}",) for name in (*RELATIONS, "feature_changes")},
    "search path": ("SET search_path = public", "SELECT * FROM timeseries_data"),
    "search path, views of views": ("SET search_path = public, tenant_wall", "SELECT * FROM ai_features"),
    "inner views": ("SELECT * FROM public.declared_spans, public.ai_features_stored",),
    "keys": ("SELECT * FROM api_keys",),
    "keys, columns": ("SELECT sha256, tenants FROM public.api_keys",),
    "logins": ("SELECT * FROM sql_logins",),
    "migrations": ("SELECT * FROM schema_migrations",),
    # becoming somebody else
    "tenant setting": ("SET ai_hub.tenant = 'theirs'", "SELECT * FROM timeseries_data"),
    "tenant setting, local": ("SELECT assets.* FROM assets, set_config('ai_hub.tenant', 'theirs', true)",),
    "service's role": ("SET ROLE ai_hub_service", "SET ai_hub.tenant = 'theirs'", "SELECT * FROM assets"),
    "role by setting": ("SELECT set_config('role', 'ai_hub_service', false)", "SELECT * FROM public.assets"),
    "owner's role": ("DO $$ BEGIN EXECUTE format('SET ROLE %I', (SELECT rolname FROM pg_roles WHERE rolsuper LIMIT 1)); END $$",),
    "session": ("SET SESSION AUTHORIZATION postgres", "SELECT * FROM public.assets"),
    "session, default": ("RESET SESSION AUTHORIZATION", "RESET ROLE", "SELECT * FROM public.assets"),
    "join the service": ("GRANT ai_hub_service TO CURRENT_USER", "SELECT * FROM public.assets"),
    "make a superuser": ("ALTER ROLE CURRENT_USER SUPERUSER", "SELECT * FROM public.assets"),
    "pass all policies": ("ALTER ROLE CURRENT_USER BYPASSRLS", "SELECT * FROM public.feature_exports, public.jobs"),
    "make a role": ("CREATE ROLE evil LOGIN SUPERUSER",),
    "bind the login anew": ("UPDATE public.sql_logins SET tenant_id = 'theirs'", "SELECT * FROM assets"),
    "bind it by insert": ("INSERT INTO sql_logins VALUES (session_user, 'theirs')", "SELECT * FROM assets"),
    # functions that look at rows before the tenant scope does
    "leaky function": ("SET default_transaction_read_only = off", SNEAKY.format(""), "SELECT * FROM assets WHERE leak(tenant_id)"),
    "leaky function, temporary": ("SET default_transaction_read_only = off", SNEAKY.format("pg_temp."), "SELECT * FROM assets WHERE pg_temp.leak(tenant_id)"),
    "leak by division": ("SELECT * FROM assets WHERE 1 / (CASE WHEN tenant_id = 'theirs' THEN 0 ELSE 1 END) > 0",),
    "leak by cast": ("SELECT * FROM assets WHERE tenant_id::integer > 0 AND tenant_id = 'theirs'",),
    "leak by cast of values": ("SELECT * FROM timeseries_data WHERE (value::text || 'x')::integer > 0 AND value > 600",),
    "leak by regular expression": ("SELECT * FROM assets WHERE regexp_replace(tenant_id, 'ours', '(') ~ tenant_id",),
    "leak by notice": ("DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM assets LOOP RAISE NOTICE '%', r; END LOOP; END $$",),
    "order by": ("SELECT * FROM assets ORDER BY 1 / (length(tenant_id) - 6)",),
    "outer join": ("SELECT * FROM (VALUES ('theirs')) AS v (t) LEFT JOIN assets ON tenant_id = t WHERE asset_id IS NOT NULL",),
    "lateral": ("SELECT r.* FROM (VALUES ('theirs')) AS v (t), LATERAL (SELECT * FROM timeseries_data WHERE tenant_id = t) AS r",),
    "union": ("SELECT tenant_id FROM assets UNION ALL SELECT tenant_id FROM public.assets",),
    "recursion": ("WITH RECURSIVE r AS (SELECT tenant_id FROM assets UNION SELECT tenant_id FROM asset_spans) TABLE r",),
    "whole rows": ("SELECT a::text, to_jsonb(a) FROM assets a",),
    "table sample": ("SELECT * FROM public.assets TABLESAMPLE SYSTEM (100)",),
    "query to xml": ("SELECT query_to_xml('SELECT * FROM public.assets', true, false, '')",),
    "schema to xml": ("SELECT schema_to_xml('public', true, false, '')",),
    "table to xml": ("SELECT table_to_xml('public.assets', true, false, '')",),
    # our functions
    "lags": ("SELECT lag_value FROM get_lag_features('theirs', 'theirs', now(), ARRAY[1, 2, 24])",),
    "rolling": ("SELECT window_avg FROM get_rolling_features('theirs', 'theirs', now(), 24)",),
    "freshness": ("SELECT newest_reading FROM feature_freshness(ARRAY['theirs'], ARRAY['theirs'], ARRAY[now()])",),
    "refresh": ("SELECT plan_feature_refresh(NULL)", "CALL refresh_features()"),
    # prepared, copied, held open
    "prepared": ("PREPARE p (text) AS SELECT * FROM timeseries_data WHERE tenant_id = $1", "EXECUTE p ('theirs')"),
    "prepared, then another path": ("PREPARE p AS SELECT * FROM assets", "EXECUTE p", "SET search_path = public", "EXECUTE p"),
    "cursor": ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM assets", "SET ai_hub.tenant = 'theirs'", "FETCH ALL FROM c"),
    "explain": ("EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM assets WHERE asset_id > 'o'",),
    "files": ("SELECT pg_read_file('PG_VERSION')", "SELECT pg_ls_dir('base')"),
    "program": ("COPY (SELECT 1) TO PROGRAM 'cat'",),
    "large objects": ("SELECT lo_import('/etc/hostname')",),
    # read-only sessions could make these up to PostgreSQL 15
    "large objects, read-only": ("SELECT lo_creat(-1)", "SELECT lo_create(0)", "SELECT lo_from_bytea(0, 'x')"),
    **{f"large objects, {name}": ("SET default_transaction_read_only = off", statement) for name, statement in {
        "made": "SELECT lo_from_bytea(0, repeat('x', 1000)::bytea)", "made empty": "SELECT lo_creat(-1), lo_create(0)",
        "written": "SELECT lowrite(lo_open(lo_create(0), 131072), 'x')", "put": "SELECT lo_put(lo_create(0), 0, 'x')",
    }.items()},
    # what the server knows about tables
    "statistics": ("SELECT * FROM pg_stats WHERE tablename !~ '^pg_'",),
    "statistics, raw": ("SELECT * FROM pg_statistic",),
    "statistics, extended": ("SELECT * FROM pg_stats_ext",),
    "who asks what": ("SELECT * FROM pg_stat_activity",),
    "names of logins": ("SELECT rolname FROM pg_roles",),
    "password hashes": ("SELECT * FROM pg_authid", "SELECT * FROM pg_shadow"),
    "locks": ("SELECT * FROM pg_locks", "SELECT * FROM pg_prepared_statements"),
    "definitions": ("SELECT * FROM pg_views WHERE schemaname = 'tenant_wall'", "SELECT prosrc FROM pg_proc WHERE prosrc ~ 'tenant'"),
    "settings": ("SELECT * FROM pg_settings WHERE setting ~ 'theirs'", "SELECT * FROM pg_db_role_setting"),
    # changing things
    **{f"writing {name}": ("SET default_transaction_read_only = off", f"DELETE FROM {name}", f"UPDATE {name} SET tenant_id = 'ours'")
       for name in ("assets", "timeseries_data", "feature_exports", "jobs", "ai_features", "forecasts", "forecast_runs", "analyses")},
    "writing past the scope": ("SET default_transaction_read_only = off", "TRUNCATE public.assets", "DELETE FROM public.feature_exports", "DELETE FROM public.jobs"),
    "forecasts for others": ("SET default_transaction_read_only = off",
        "INSERT INTO forecasts VALUES (now(), 'theirs', 'a', gen_random_uuid(), now(), 1, 1, 1, 1, 'ok')"),
    "jobs for others": ("SET default_transaction_read_only = off",
        "INSERT INTO jobs (tenant_id, kind) VALUES ('theirs', 'x') RETURNING *"),
    "answers for others": ("SET default_transaction_read_only = off",
        "INSERT INTO analyses VALUES (gen_random_uuid(), 'theirs', 'anomalies', 'x', 'x', '{}', now()) RETURNING *"),
    "new table": ("SET default_transaction_read_only = off", "CREATE TABLE evil AS SELECT * FROM assets"),
    "new table in the scope": ("SET default_transaction_read_only = off", "CREATE TABLE tenant_wall.evil AS TABLE assets"),
    "temporary table": ("SET default_transaction_read_only = off", "CREATE TEMP TABLE assets AS TABLE public.assets"),
    "new view": ("SET default_transaction_read_only = off", "CREATE VIEW public.evil AS TABLE public.assets"),
    "other view": ("SET default_transaction_read_only = off", "ALTER VIEW tenant_wall.assets RESET (security_barrier)"),
    "other function": ("SET default_transaction_read_only = off",
        "CREATE OR REPLACE FUNCTION tenant_wall.current_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'theirs' $$"),
    "no policy": ("SET default_transaction_read_only = off", "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY"),
    "row security off": ("SET row_security = off", "SELECT * FROM jobs", "SELECT * FROM public.jobs"),
    "extension": ("SET default_transaction_read_only = off", "CREATE EXTENSION dblink"),
    "operator": ("SET default_transaction_read_only = off",
        "CREATE OPERATOR tenant_wall.= (LEFTARG = text, RIGHTARG = text, FUNCTION = textne)"),
    "trigger": ("SET default_transaction_read_only = off",
        "CREATE TRIGGER t BEFORE INSERT ON public.assets FOR EACH ROW EXECUTE FUNCTION note_reading_changes()"),
}  # fmt: skip
#: Of TimescaleDB alone; {chunk} is one that holds foreign rows.
ON_TIMESCALE = {
    "chunk": ("SELECT * FROM {chunk}",),
    "every chunk": ("SELECT show_chunks('public.timeseries_data')", "SELECT * FROM _timescaledb_internal._hyper_1_1_chunk"),
    "materialized": ("SELECT * FROM _timescaledb_internal._materialized_hypertable_3",),
    "partial view": ("SELECT * FROM _timescaledb_internal._partial_view_3", "SELECT * FROM _timescaledb_internal._direct_view_3"),
    "catalog": ("SELECT * FROM _timescaledb_catalog.hypertable", "SELECT * FROM _timescaledb_catalog.chunk",
        "SELECT * FROM _timescaledb_catalog.continuous_agg", "SELECT * FROM _timescaledb_catalog.compression_settings"),
    "information": ("SELECT * FROM timescaledb_information.chunks", "SELECT * FROM timescaledb_information.jobs",
        "SELECT * FROM timescaledb_information.job_errors", "SELECT * FROM timescaledb_information.continuous_aggregates"),
    "move a chunk": ("SET default_transaction_read_only = off", "SELECT compress_chunk('{chunk}')", "SELECT drop_chunks('public.timeseries_data', now())"),
    "job of the owner": ("SET default_transaction_read_only = off", "SELECT add_job('refresh_features_job', '1s')", "CALL run_job(1000)"),
    "last value": ('SELECT last(value, "timestamp"), first(tenant_id, "timestamp") FROM timeseries_data',),
    "gap fill": ("SELECT time_bucket_gapfill('1 h', \"timestamp\", now() - INTERVAL '3 h', now()), max(value) FROM timeseries_data GROUP BY 1",),
    "size": ("SELECT * FROM approximate_row_count('public.timeseries_data')", "SELECT * FROM hypertable_detailed_size('public.timeseries_data')"),
}  # fmt: skip


@pytest.fixture(scope="module")
def owner(native_postgres: str, dsn: str) -> Iterator[str]:
    with scoped_database(native_postgres, dsn) as address:
        yield address


@pytest.fixture(scope="module")
def login(owner: str) -> Iterator[str]:
    """Address of our tenant's login."""
    yield sql_logins.grant(OURS, dsn=owner).dsn
    sql_logins.revoke(OURS, dsn=owner)


def visit(login: str, statements: tuple[str, ...]) -> tuple[list[str], int]:
    """All that the login gets to see: rows, errors and notices; and how many statements were refused."""
    seen: list[str] = []
    refused = 0
    with psycopg.connect(login, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
        for statement in statements:
            try:
                cursor = connection.execute(statement)
                seen += [repr(row) for row in cursor.fetchall()] if cursor.description else []
            except psycopg.Error as error:
                # what the attacker wrote is no news to them; what the server adds would be
                seen.append(str(error).split("\nLINE", 1)[0].replace(statement, ""))
                refused += 1
    return seen, refused


def foreign(seen: list[str]) -> list[str]:
    return [line for line in seen if FOREIGN in line or str(FOREIGN_VALUE) in line]


def contents(owner: str) -> object:
    with connect(owner) as connection:
        rows = [connection.execute(f"SELECT tenant_id, count(*) FROM {name} GROUP BY 1 ORDER BY 1").fetchall()
                for name in (*RELATIONS, "sql_logins")]  # fmt: skip
        roles = connection.execute(
            "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname ~ 'ai_hub|evil' ORDER BY 1"
        ).fetchall()
        made = connection.execute(
            "SELECT relname FROM pg_class WHERE relname IN ('evil', 'leak') UNION SELECT proname FROM pg_proc"
            " WHERE proname IN ('evil', 'leak')"
        ).fetchall()
        kept = connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone()
    return rows, roles, made, kept


def test_login__hostile_sql__sees_and_changes_nothing_foreign(owner: str, login: str) -> None:
    attempts = dict(ATTEMPTS)
    with connect(owner) as connection:
        if is_timescale(connection):
            chunk = connection.execute("SELECT show_chunks('timeseries_data')::text LIMIT 1").fetchone()
            attempts |= {
                name: tuple(text.replace("{chunk}", chunk[0]) for text in texts)
                for name, texts in ON_TIMESCALE.items()
            }  # fmt: skip
        control = connection.execute("SELECT * FROM public.assets").fetchall()
    assert foreign([repr(row) for row in control]), "the owner sees them, so the tenant scope hides something"
    before = contents(owner)
    leaks = {}
    refused = 0
    for name, statements in attempts.items():
        seen, errors = visit(login, statements)
        refused += errors
        if found := foreign(seen):
            leaks[name] = found[:3]
    print(f"{len(attempts)} attempts, {refused} statements refused, {len(leaks)} leaks")  # noqa: T201
    assert leaks == {}
    assert contents(owner) == before
    assert len(attempts) >= 60


@pytest.mark.parametrize("relation", RELATIONS)
def test_login__own_rows__are_all_there(owner: str, login: str, relation: str) -> None:
    query = f"SELECT count(*) FROM {relation}"
    with connect(owner) as connection:
        expected = connection.execute(f"{query} WHERE tenant_id = %s", [OURS]).fetchone()
        with psycopg.connect(login) as theirs:
            assert theirs.execute(query).fetchone() == expected
        connection.rollback()
        with as_tenant(connection, OURS):
            assert connection.execute(query).fetchone() == expected
    assert expected != (0,)


def test_login__point_functions__work_within_the_wall(login: str) -> None:
    with psycopg.connect(login) as connection:
        (value,) = connection.execute(
            "SELECT lag_value FROM get_lag_features('ours', 'ours', date_trunc('hour', now()), ARRAY[1])"
        ).fetchone()
    assert value == 1.5


def test_wall__every_relation_with_tenants__is_in_it_or_known_to_be_outside(owner: str) -> None:
    with connect(owner) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'tenant_id'"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm')"
        ).fetchall()
    assert {name for (name,) in rows} - OUTSIDE == set(RELATIONS)


def test_wall__without_a_barrier__is_found_leaky(owner: str, login: str) -> None:
    with connect(owner) as connection:
        connection.execute("ALTER VIEW tenant_wall.assets RESET (security_barrier)")
        connection.commit()
        try:
            seen, _ = visit(login, ("SELECT * FROM assets WHERE asset_id::integer = 0",))
        finally:
            connection.execute("ALTER VIEW tenant_wall.assets SET (security_barrier)")
    assert foreign(seen) or any("ours" in line for line in seen)


def test_revoke__login__is_gone_with_its_sessions(owner: str) -> None:
    granted = sql_logins.grant("short-lived", dsn=owner)
    with psycopg.connect(granted.dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM assets").fetchone() == (0,)
        sql_logins.revoke("short-lived", dsn=owner)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(granted.dsn)


def test_unbound_login__with_the_tenants_role__sees_nothing(owner: str) -> None:
    granted = sql_logins.grant("unbound", dsn=owner)
    with connect(owner) as connection:
        connection.execute("DELETE FROM sql_logins WHERE login = %s", [granted.login])
    seen, _ = visit(granted.dsn, ("SET ai_hub.tenant = 'theirs'", "SELECT * FROM assets"))
    with connect(owner) as connection:
        connection.execute(f"DROP OWNED BY {granted.login}; DROP ROLE {granted.login}")
    assert seen == []

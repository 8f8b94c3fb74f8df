# ruff: noqa: E501, S608 - SQL as it is sent
"""A database with the tenant scope, two tenants, and logins: TimescaleDB where there is a native one, else a look-alike.

The embedded TimescaleDB has one login, and the native PostgreSQL of the tests has no TimescaleDB. The look-alike has
the same relations as plain tables, and the same views around them.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Iterator

#: In every row of the foreign tenant, and nowhere else.
FOREIGN, FOREIGN_VALUE = "theirs", 666.125
OURS = "ours"
CODE = paths.resource("sql") / "code"
MIGRATIONS = paths.resource("sql") / "migrations"
_COLUMNS = """
SELECT relname, attname, format_type(atttypid, NULL)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
    AND relname NOT IN ('api_keys', 'sql_logins')
ORDER BY relname, attnum
"""
_FILLINGS = {
    "double precision": "{value}", "bigint": "1", "integer": "1", "boolean": "false", "uuid": "gen_random_uuid()",
    "timestamp with time zone": "date_trunc('hour', now()) - INTERVAL '1 hour'", "jsonb": "jsonb_build_object('is', '{tenant}')",
    "json": "json_build_object('is', '{tenant}')",
    "text[]": "ARRAY['{tenant}']", "double precision[]": "ARRAY[1, {value}, 0]::float8[]", "text": "'{tenant}'",
}  # fmt: skip


def scope_code() -> tuple[str, ...]:
    return tuple((CODE / name).read_text() for name in ("005_drop_tenant_wall.sql", "070_tenant_wall.sql"))


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """Address of an empty database on `server`, dropped at the end."""
    name = f"wall_{secrets.token_hex(4)}"
    with connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        yield server.rsplit("/", 1)[0] + f"/{name}"
    finally:
        with connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def scoped_database(native_postgres: str, embedded: str) -> Iterator[str]:
    """Owner's address of a database with rows of both tenants in every relation."""
    native_timescale = os.environ.get("AI_HUB_BENCH_DSN")
    with new_database(native_timescale or native_postgres) as dsn:
        if native_timescale:
            migrate(dsn)
            _fill(dsn)
        else:
            _look_alike(dsn, embedded)
        yield dsn


def _look_alike(dsn: str, embedded: str) -> None:
    migrate(embedded)
    with connect(embedded) as source:
        columns = source.execute(_COLUMNS).fetchall()
    tables: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in columns:
        tables.setdefault(table, []).append((column, kind))
    aggregates = re.findall(
        r"CREATE AGGREGATE .*?;", (MIGRATIONS / "0002_aggregates.sql").read_text(), re.DOTALL
    )
    with connect(dsn) as here:
        here.execute("CREATE SCHEMA _timescaledb_functions")
        here.execute(
            "CREATE FUNCTION time_bucket(interval, timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE"
            " AS $$ SELECT date_bin($1, $2, '2000-01-03Z') $$"
        )
        here.execute(
            "CREATE FUNCTION _timescaledb_functions.cagg_watermark(integer) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'"
        )
        for statement in aggregates:
            here.execute(statement)
        for name, found in tables.items():
            stored = f"{name}_stored" if name == "hourly_features" else name
            described = ", ".join(f'"{column}" {kind}' for column, kind in found)
            here.execute(f"CREATE TABLE {stored} ({described})")
            if stored != name:
                here.execute(f"CREATE VIEW {name} AS SELECT * FROM {stored}")
            for tenant, value in ((OURS, 1.5), (FOREIGN, FOREIGN_VALUE)):
                filled = ", ".join(
                    _FILLINGS.get(kind, "NULL").format(tenant=tenant, value=value) for _, kind in found
                )
                here.execute(f"INSERT INTO {stored} VALUES ({filled})")
        here.execute((CODE / "020_point_functions.sql").read_text())
        here.execute((MIGRATIONS / "0010_access.sql").read_text())
        for text in scope_code():
            here.execute(text)


def _fill(dsn: str) -> None:
    with connect(dsn) as here:
        for tenant, value in ((OURS, 1.5), (FOREIGN, FOREIGN_VALUE)):
            asset = tenant
            here.execute(
                "INSERT INTO assets (tenant_id, asset_id, kind) VALUES (%s, %s, %s)", [tenant, asset, asset]
            )
            here.execute(
                "INSERT INTO timeseries_data SELECT date_trunc('hour', now()) - INTERVAL '1 hour' * g, %s, %s, %s"
                " FROM generate_series(1, 2000) g",
                [tenant, asset, value],
            )
            here.execute(
                'INSERT INTO weather_features ("timestamp", tenant_id, asset_id, available_at, temperature)'
                " VALUES (now() - INTERVAL '2 hours', %s, %s, now() - INTERVAL '3 hours', %s)",
                [tenant, asset, value],
            )
            here.execute(
                "INSERT INTO covariate_series (tenant_id, series, unit) VALUES (%s, 'price', %s)",
                [tenant, asset],
            )
            here.execute(
                'INSERT INTO covariates ("timestamp", tenant_id, series, available_at, value)'
                " VALUES (now(), %s, 'price', now(), %s)",
                [tenant, value],
            )
            here.execute(
                "INSERT INTO jobs (kind, tenant_id, arguments)"
                " VALUES ('export', %s, jsonb_build_object('start_time', now(), 'output_path', %s::text))",
                [tenant, asset],
            )
            here.execute(
                "INSERT INTO quarantined_rows (tenant_id, fingerprint, table_name, file_name, line, reason, cells)"
                " VALUES (%s, gen_random_uuid(), 'timeseries_data', 'f', 1, %s, '{}')",
                [tenant, asset],
            )
            here.execute(
                "INSERT INTO assets (tenant_id, asset_id, reading) VALUES (%s, 'register', 'register')",
                [tenant],
            )
            here.execute(
                'INSERT INTO register_readings ("timestamp", tenant_id, asset_id, value)'
                " VALUES (now() - INTERVAL '2 hours', %s, 'register', %s)",
                [tenant, value],
            )
            here.execute("INSERT INTO quality_policies VALUES (%s, 'suspect', true)", [tenant])
            here.execute(
                "WITH run AS (INSERT INTO forecast_runs (run_id, tenant_id, model, role, issued_at, known_at, step, horizon,"
                " status, assets) VALUES (gen_random_uuid(), %s, %s, 'backtest', now(), now(), '1 h', '1 h', 'complete',"
                " ARRAY[%s]) RETURNING tenant_id, run_id)"
                " INSERT INTO forecasts (target_time, tenant_id, asset_id, run_id, issued_at, value, status)"
                " SELECT now(), tenant_id, tenant_id, run_id, now(), %s, 'ok' FROM run",
                [tenant, asset, asset, value],
            )
            here.execute(
                "INSERT INTO forecast_scores VALUES"
                " (%s, %s, '2026-10-25', 'm', 1, 'live', '', 0, 1, %s, 1, 1, 1, 0, 0, 0)",
                [tenant, asset, value],
            )
            here.execute(
                "INSERT INTO model_findings VALUES (%s, 'm', 'error', now(), jsonb_build_object('value', %s::float8))",
                [tenant, value],
            )
            here.execute(
                "INSERT INTO retrain_requests (tenant_id, model, version, evidence)"
                " VALUES (%s, 'm', 1, jsonb_build_object('age', %s::float8))",
                [tenant, value],
            )
            here.execute("INSERT INTO retrain_policies VALUES (%s, 'm', true)", [tenant])
            here.execute(
                "INSERT INTO analyses VALUES (gen_random_uuid(), %s, 'anomalies', %s, 'iqr', '{}', now())",
                [tenant, asset],
            )
            here.execute(
                "INSERT INTO data_findings (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail)"
                " VALUES (%s, %s, 'gap', now(), now(), '{}')",
                [tenant, asset],
            )
    refresh(dsn=dsn)
    with connect(dsn, autocommit=True) as here:
        here.execute("ANALYZE")


def is_timescale(connection: psycopg.Connection) -> bool:
    return connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is not None

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.sql import SQL as sql_of  # noqa: N811 - `sql` is the folder here
from psycopg.sql import Identifier

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.migrate import EditedHistoryError, TimescaleLicenceError, migrate
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return shutil.copytree(paths.resource("sql"), tmp_path / "sql")


def test_migrate__twice__second_changes_nothing(blank_database: str, sql: Path) -> None:
    first = migrate(blank_database, sql=sql)
    assert [name[:4] for name in first.applied] == [f"{n:04}" for n in range(1, len(first.applied) + 1)]
    assert first.code_applied
    assert not migrate(blank_database, sql=sql).changed

    edited = sql / "migrations" / first.applied[0]
    original = edited.read_text()
    edited.write_text(original + "-- edited\n")
    with pytest.raises(EditedHistoryError, match=r"0001_tables\.sql.*edited"):
        migrate(blank_database, sql=sql)
    edited.unlink()
    with pytest.raises((EditedHistoryError, BadInputError)):
        migrate(blank_database, sql=sql)
    edited.write_text(original)

    # a migration that fails leaves nothing of itself behind, and the mended one applies
    number = len(first.applied) + 1
    added = sql / "migrations" / f"{number:04}_more.sql"
    added.write_text("CREATE TABLE half (x integer); SELECT 1 / 0;")
    with pytest.raises(Exception, match="division by zero"):
        migrate(blank_database, sql=sql)
    added.write_text("CREATE TABLE half (x integer);")
    assert migrate(blank_database, sql=sql).applied == [added.name]

    # changed code is applied again, unchanged code is not
    code = sql / "code" / "020_point_functions.sql"
    code.write_text(code.read_text() + "-- changed\n")
    outcome = migrate(blank_database, sql=sql)
    assert outcome.code_applied
    assert not outcome.applied
    assert not migrate(blank_database, sql=sql).changed


def test_migrate__badly_named_file__is_refused(sql: Path) -> None:
    (sql / "migrations" / "0099_gap.sql").write_text("SELECT 1")
    with pytest.raises(BadInputError, match="gaps"):
        migrate("postgresql://unused", sql=sql)
    (sql / "migrations" / "0099_gap.sql").rename(sql / "migrations" / "later.sql")
    with pytest.raises(BadInputError, match="not a migration name"):
        migrate("postgresql://unused", sql=sql)


def test_check_licence__apache_only__is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the Apache-only edition cannot be had here: a session setting of the same name stands in for its answer
    monkeypatch.setattr("ai_hub.db.migrate._COMMUNITY_LICENCE", "enterprise")
    with pytest.raises(TimescaleLicenceError, match="'timescale'"):
        migrate(database)


def test_schema__objects__are_as_named(database: str) -> None:
    with connect(database) as connection:

        def names(query: str) -> set[str]:
            return {row[0] for row in connection.execute(query)}  # type: ignore[arg-type]

        hypertables = names("SELECT hypertable_name FROM timescaledb_information.hypertables")
        assert hypertables == {
            *("timeseries_data", "register_readings", "weather_features", "covariates"),
            "ai_features_stored",
        }
        aggregates = names("SELECT view_name FROM timescaledb_information.continuous_aggregates")
        assert aggregates == {"hourly_features", "daily_features"}
        views = names("SELECT viewname FROM pg_views WHERE schemaname = 'public'")
        assert {
            "forecast_basic_features",
            "forecast_advanced_features",
            "anomaly_detection_features",
            "ai_features",
        } <= views
        jobs = connection.execute(
            "SELECT proc_name, hypertable_name, config ->> 'drop_after', schedule_interval::text"
            " FROM timescaledb_information.jobs WHERE job_id >= 1000"
        ).fetchall()
    assert ("policy_retention", "weather_features", "1 year", "1 day") in jobs
    assert sum(proc == "policy_refresh_continuous_aggregate" for proc, *_ in jobs) == 2
    assert sum(proc == "policy_compression" for proc, *_ in jobs) == 2
    assert sum(proc == "refresh_features_job" for proc, *_ in jobs) == 1


def test_migrate__after_a_restore_without_rights__grants_anew(blank_database: str) -> None:
    def rights(connection: Any) -> list[Any]:
        query = """
            SELECT oid::regclass::text AS name, relacl::text FROM pg_class WHERE relacl IS NOT NULL
                AND relnamespace::regnamespace::text IN ('public', 'tenant_wall')
            UNION ALL SELECT nspname, nspacl::text FROM pg_namespace
            WHERE nspname IN ('public', 'tenant_wall')
            UNION ALL SELECT oid::regprocedure::text, proacl::text FROM pg_proc
            WHERE pronamespace::regnamespace::text IN ('public', 'tenant_wall')
            UNION ALL SELECT 'database', datacl::text FROM pg_database WHERE datname = current_database()
            ORDER BY 1
        """
        return connection.execute(query).fetchall()  # type: ignore[no-any-return]

    migrate(blank_database)
    with connect(blank_database) as connection:
        before = rights(connection)
        connection.execute(
            "REVOKE ALL ON ALL TABLES IN SCHEMA tenant_wall FROM ai_hub_service, ai_hub_tenant"
        )
        connection.execute("REVOKE ALL ON api_keys FROM ai_hub_service")
        connection.execute("REVOKE USAGE ON SCHEMA tenant_wall FROM ai_hub_service, ai_hub_tenant")
        connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tenant_wall TO PUBLIC")
        connection.execute(
            sql_of("GRANT CREATE, TEMPORARY ON DATABASE {} TO PUBLIC").format(
                Identifier(connection.info.dbname)
            )
        )
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        assert rights(connection) != before
    outcome = migrate(blank_database)
    assert (outcome.applied, outcome.code_applied) == ([], True)
    with connect(blank_database) as connection:
        assert rights(connection) == before
        # what others grant besides is theirs, and no reason to apply anything
        connection.execute("GRANT SELECT ON assets TO ai_hub_service")
    assert not migrate(blank_database).changed


def test_schema__tables__can_be_made_with_no_schema_in_the_search_path(blank_database: str) -> None:
    """As `pg_restore` makes them: from the text of their columns and checks."""
    migrate(blank_database)
    with connect(blank_database) as connection:
        connection.execute("SET search_path = ''")
        tables = connection.execute(
            """
            SELECT c.relname, array_agg(format('%I %s %s', attname, format_type(atttypid, atttypmod), format(
                    CASE attgenerated WHEN 's' THEN 'GENERATED ALWAYS AS (%s) STORED' ELSE 'DEFAULT %s' END,
                    coalesce(pg_get_expr(adbin, adrelid), 'NULL')))
                ORDER BY attnum) || ARRAY(
                    SELECT pg_get_constraintdef(oid) FROM pg_constraint
                    WHERE conrelid = c.oid AND contype = 'c'
                )
            FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' GROUP BY c.oid, relname
            """
        ).fetchall()
        assert "assets" in {name for name, _ in tables}
        for _, parts in tables:
            connection.execute(
                sql_of("CREATE TABLE public.as_restored ({})").format(sql_of(", ".join(parts)))
            )
            connection.execute("DROP TABLE public.as_restored")

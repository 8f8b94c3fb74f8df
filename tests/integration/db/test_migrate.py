from __future__ import annotations

import runpy
import shutil
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from oracles.features import HOUR, Asset, floor_hour
from psycopg.sql import SQL as sql_of  # noqa: N811 - `sql` is the folder here
from psycopg.sql import Identifier
from support.feature_tables import assert_views_equal, now, register, write

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.hourly_features import FEATURES
from ai_hub.db.migrate import EditedHistoryError, TimescaleLicenceError, migrate
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError
from feast_plugins.windows import Lag
from feast_plugins.windows.database import make_own
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.features import expression

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
            *("ai_features_stored", "forecasts"),
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
    assert sum(proc == "policy_compression" for proc, *_ in jobs) == 3
    for own in ("refresh_features_job", "remove_old_forecasts"):
        assert sum(proc == own for proc, *_ in jobs) == 1


#: Puts the features of the services back into the tables that they were in before they were a declared view.
AS_BEFORE_ONE_ENGINE = """
DROP SCHEMA tenant_wall CASCADE;
DROP TABLE forecasts;
DROP TABLE forecast_runs, forecast_scores, forecast_scores_due, model_findings, analyses;
DROP TABLE retrain_requests, retrain_policies, import_hours, imports, served_features;
DROP VIEW forecast_basic_features, forecast_advanced_features, anomaly_detection_features,
    forecast_basic_feature_versions, forecast_advanced_feature_versions, anomaly_detection_feature_versions,
    ai_features, ai_features_versions;
DROP TRIGGER naive_scores_are_due ON assets;
DROP TRIGGER register_described ON assets;
DROP TRIGGER asset_times ON assets;
ALTER TABLE assets DROP available_after, DROP weather_since, DROP timezone_since;
ALTER TABLE timeseries_data DROP available_at;
ALTER TABLE register_readings DROP available_at;
ALTER TABLE asset_spans DROP longest_delay;
ALTER TABLE asset_spans ADD stored tstzmultirange NOT NULL DEFAULT '{}';
UPDATE asset_spans AS spans SET stored = known.stored FROM declared_spans AS known
WHERE view_name = 'ai_features' AND known.tenant_id = spans.tenant_id AND known.asset_id = spans.asset_id;
DELETE FROM declared_views WHERE view_name = 'ai_features';
DROP INDEX ai_features_stored_hour_idx, ai_features_stored_created_timestamp_idx, data_findings_of_features;
ALTER TABLE data_findings DROP subject, ADD PRIMARY KEY (tenant_id, asset_id, kind, first_timestamp);
DELETE FROM schema_migrations WHERE version >= 32;
ALTER TABLE ai_features_stored DROP generation;
ALTER TABLE ai_features_stored RENAME TO ai_feature_versions;
CREATE TABLE ai_features (LIKE ai_feature_versions);
SELECT create_hypertable('ai_features', by_range('hour'));
INSERT INTO ai_features SELECT * FROM ai_feature_versions WHERE superseded_at IS NULL;
CREATE TABLE feature_refresh_ranges (LIKE declared_refresh_ranges);
"""


def test_migrate__features_of_an_earlier_release__stay_with_all_that_was_known(
    migrated_database: str,
) -> None:
    start = floor_hour(datetime.now(UTC)) - timedelta(days=130)
    asset = Asset("Europe/Berlin", {start + number * HOUR: 1.0 + number % 7 for number in range(80)})
    with connect(migrated_database, autocommit=True) as connection:
        register(connection, "t", "meter", asset.zone)
        write(connection, "t", "meter", asset.readings)
        refresh(dsn=migrated_database)
        then, known = now(connection), deepcopy(asset)
        asset.readings[start + 30 * HOUR] = 99.0
        write(connection, "t", "meter", {start + 30 * HOUR: 99.0})
        refresh(dsn=migrated_database)
        query = "SELECT * FROM forecast_advanced_feature_versions ORDER BY event_timestamp, created_timestamp"
        before = connection.execute(query).fetchall()
        connection.execute(AS_BEFORE_ONE_ENGINE)
        assert "0033_one_engine.sql" in migrate(migrated_database).applied
        assert connection.execute(query).fetchall() == before
        assert_views_equal(connection, "t", "meter", asset)
        assert_views_equal(connection, "t", "meter", known, known_at=then)
        assert refresh(dsn=migrated_database).rows == 0
        write(connection, "t", "meter", {start + 31 * HOUR: 98.0})
        asset.readings[start + 31 * HOUR] = 98.0
        assert refresh(dsn=migrated_database).changed == 24
        assert_views_equal(connection, "t", "meter", asset)


def test_migrate__stopped_before_the_code__leaves_ingest_and_reads_as_they_were(
    migrated_database: str, sql: Path
) -> None:
    number = len(list((sql / "migrations").glob("*.sql"))) + 1
    (sql / "migrations" / f"{number:04}_more.sql").write_text(
        "DROP SCHEMA tenant_wall CASCADE; DROP VIEW forecast_basic_features;"
        "ALTER TABLE data_findings DROP CONSTRAINT data_findings_pkey"
    )
    (sql / "code" / "099_fails.sql").write_text("SELECT 1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        migrate(migrated_database, sql=sql)
    with connect(migrated_database, autocommit=True) as connection:
        register(connection, "stopped", "meter", "UTC")
        # a reading of no time after others: the trigger writes findings
        write(connection, "stopped", "meter", {floor_hour(datetime.now(UTC)) - 30 * HOUR: 1.0})
        rows = connection.execute(
            "SELECT count(*) FROM forecast_basic_features WHERE tenant_id = 'stopped'"
        ).fetchone()
        assert rows == (24,)
    assert not migrate(migrated_database).changed


def test_make_own__a_later_release__adds_its_features_and_keeps_those_of_others(
    migrated_database: str,
) -> None:
    ours = {name: expression(each) for name, each in FEATURES.items()}

    def features() -> dict[str, Any]:
        connection.execute("SELECT lag_2h, lag_3h FROM ai_features LIMIT 0")
        connection.execute("SELECT lag_2h, lag_3h FROM ai_features_stored LIMIT 0")
        row = connection.execute(
            "SELECT meanings FROM declared_views WHERE view_name = 'ai_features'"
        ).fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    with connect(migrated_database) as connection:
        make_own(connection, Declaration("ai_features", {**ours, "lag_2h": Lag("value", 2 * HOUR)}))
        make_own(connection, Declaration("ai_features", {**ours, "lag_3h": Lag("value", 3 * HOUR)}))
        assert {name: features()[name] for name in ("lag_1h", "lag_2h", "lag_3h")} == {
            "lag_1h": 1,
            "lag_2h": 2,
            "lag_3h": 3,
        }
        # of a project that has changed it
        connection.execute("UPDATE declared_views SET project = 'theirs' WHERE view_name = 'ai_features'")
        make_own(connection, Declaration("ai_features", ours))
        assert set(features()) > {"lag_2h", "lag_3h"}
        connection.rollback()


def test_own_hourly_features__are_those_of_the_feature_repository() -> None:
    theirs = runpy.run_path(str(paths.resource("feature_repo") / "hourly_features.py"))["FEATURES"]
    assert list(theirs.items()) == list(FEATURES.items())


def test_migrate__after_a_restore_without_rights__grants_anew(migrated_database: str) -> None:
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

    with connect(migrated_database) as connection:
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
    outcome = migrate(migrated_database)
    assert (outcome.applied, outcome.code_applied) == ([], True)
    with connect(migrated_database) as connection:
        assert rights(connection) == before
        # what others grant besides is theirs, and no reason to apply anything
        connection.execute("GRANT SELECT ON assets TO ai_hub_service")
    assert not migrate(migrated_database).changed


def test_schema__tables__can_be_made_with_no_schema_in_the_search_path(database: str) -> None:
    """As `pg_restore` makes them: from the text of their columns and checks."""
    with connect(database) as connection:
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

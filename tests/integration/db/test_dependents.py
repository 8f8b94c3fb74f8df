"""What users build on our views survives `migrate`, or `migrate` names it and changes nothing."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg import Connection


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return shutil.copytree(paths.resource("sql"), tmp_path / "sql")


@pytest.fixture(scope="module")
def dsn(migrated_database: str) -> str:
    return migrated_database


class Users:
    """A role with a schema of its own."""

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self.role = f"user_{secrets.token_hex(4)}"
        self.run("CREATE ROLE {role}; CREATE SCHEMA users AUTHORIZATION {role}")

    def run(self, statements: str) -> None:
        self.connection.execute(sql.SQL(statements).format(role=sql.Identifier(self.role)))  # type: ignore[arg-type]

    def forget(self, migration: int) -> None:
        self.connection.execute("DELETE FROM schema_migrations WHERE version = %s", [migration])

    def value(self, query: str) -> Any:
        row = self.connection.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]

    def oid(self, view: str) -> Any:
        return self.value(f"SELECT '{view}'::regclass::oid::bigint")

    def state(self) -> Any:
        return self.value(STATE)


@pytest.fixture
def users(dsn: str) -> Iterator[Users]:
    with connect(dsn, autocommit=True) as opened:
        found = Users(opened)
        yield found
        found.run("DROP SCHEMA users CASCADE; DROP OWNED BY {role}; DROP ROLE {role}")
        found.run("UPDATE schema_code SET sha256 = ''")
    migrate(dsn)


#: Everything that can be said of the views of users, of grants on any view, and of triggers on one of ours.
STATE = """
SELECT jsonb_build_array(
    (SELECT jsonb_object_agg(oid::regclass, jsonb_build_array(
        relkind, pg_get_viewdef(oid), reloptions, relispopulated, pg_get_userbyid(relowner), relacl::text,
        obj_description(oid, 'pg_class'),
        (SELECT jsonb_agg(jsonb_build_array(
            attname, format_type(atttypid, atttypmod), attacl::text, col_description(attrelid, attnum),
            pg_get_expr(adbin, adrelid)
        ) ORDER BY attnum) FROM pg_attribute
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = pg_class.oid),
        (SELECT jsonb_agg(pg_get_indexdef(indexrelid) ORDER BY 1) FROM pg_index
            WHERE indrelid = pg_class.oid),
        (SELECT jsonb_agg(pg_get_triggerdef(pg_trigger.oid)) FROM pg_trigger WHERE tgrelid = pg_class.oid),
        (SELECT jsonb_agg(pg_get_ruledef(pg_rewrite.oid) ORDER BY rulename) FROM pg_rewrite
            WHERE ev_class = pg_class.oid)
    )) FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = to_regnamespace('users')),
    (SELECT jsonb_agg(DISTINCT format(
            '%s %s %s %s', place, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
            privilege_type, is_grantable))
        FROM (
            SELECT oid::regclass::text, relacl FROM pg_class WHERE relkind IN ('v', 'm')
                AND relnamespace IN ('public'::regnamespace, 'tenant_wall'::regnamespace)
            UNION ALL
            SELECT attrelid::regclass || '.' || attname, attacl FROM pg_attribute WHERE attacl IS NOT NULL
            UNION ALL SELECT nspname, nspacl FROM pg_namespace WHERE nspname = 'tenant_wall'
        ) AS acls (place, acl), aclexplode(acl)),
    (SELECT jsonb_agg(pg_get_triggerdef(oid)) FROM pg_trigger
        WHERE tgrelid = 'forecast_basic_features'::regclass)
)
"""


def touch(files: Path) -> None:
    code = files / "code" / "056_feature_views.sql"
    code.write_text(code.read_text() + "-- changed\n")


def add(files: Path, statements: str) -> tuple[int, str]:
    number = len(list((files / "migrations").glob("*.sql"))) + 1
    name = f"{number:04}_more.sql"
    (files / "migrations" / name).write_text(statements)
    return number, name


def test_migrate__views_on_ours__stay_with_all_that_belongs_to_them(
    users: Users, dsn: str, files: Path
) -> None:
    users.run(
        """
        GRANT SELECT ON anomaly_detection_features, hourly_features TO {role} WITH GRANT OPTION;
        GRANT SELECT (lag_1h) ON forecast_basic_features TO {role};
        GRANT SELECT ON forecast_advanced_features TO PUBLIC;
        GRANT USAGE ON SCHEMA tenant_wall TO {role};
        GRANT SELECT ON tenant_wall.assets TO {role};
        CREATE VIEW users.plain WITH (security_barrier, check_option = local) AS
            SELECT * FROM anomaly_detection_features WHERE lag_1h > 0;
        ALTER VIEW users.plain ALTER COLUMN lag_1h SET DEFAULT 7;
        CREATE VIEW users."On Plain" ("größte", t) AS
            SELECT tenant_id, max(lag_1h) FROM users.plain GROUP BY 1;
        CREATE VIEW users.joined AS SELECT p.tenant_id, o.t, h.avg_value, f.lag_24h
            FROM users.plain p JOIN users."On Plain" o ON o."größte" = p.tenant_id
            JOIN public.hourly_features h USING (asset_id)
            JOIN ai_features f ON f.asset_id = p.asset_id;
        CREATE MATERIALIZED VIEW users.filled WITH (fillfactor = 70) AS
            SELECT tenant_id, max(lag_1h) AS most FROM anomaly_detection_feature_versions GROUP BY 1;
        CREATE UNIQUE INDEX by_tenant ON users.filled (tenant_id);
        CREATE MATERIALIZED VIEW users.empty AS SELECT * FROM users.joined WITH NO DATA;
        CREATE VIEW tenant_wall.added AS SELECT hour_of_day FROM tenant_wall.anomaly_detection_features;
        COMMENT ON VIEW users.plain IS 'it''s mine';
        COMMENT ON COLUMN users.filled.most IS 'the most';
        CREATE FUNCTION users.ignore() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER writable INSTEAD OF INSERT ON users."On Plain"
            FOR EACH ROW EXECUTE FUNCTION users.ignore();
        CREATE TRIGGER ours INSTEAD OF INSERT ON forecast_basic_features
            FOR EACH ROW EXECUTE FUNCTION users.ignore();
        CREATE RULE quiet AS ON DELETE TO users.joined DO INSTEAD NOTHING;
        GRANT SELECT, INSERT ON users.plain TO PUBLIC;
        GRANT SELECT (t) ON users."On Plain" TO PUBLIC;
        ALTER VIEW users.plain OWNER TO {role};
        ALTER VIEW users."On Plain" OWNER TO {role};
        ALTER VIEW users.joined OWNER TO {role};
        """
    )
    before, ours = users.state(), users.oid("anomaly_detection_features")
    touch(files)
    assert migrate(dsn, sql=files).code_applied
    assert users.oid("anomaly_detection_features") != ours, "nothing was recreated"
    assert users.state() == before
    assert users.value("SELECT count(*) FROM tenant_wall.added") == 0
    users.run("DROP VIEW tenant_wall.added; DROP TRIGGER ours ON forecast_basic_features")
    users.run("REVOKE SELECT ON forecast_advanced_features FROM PUBLIC")


def test_migrate__view_that_no_longer_fits__is_named_and_nothing_changes(
    users: Users, dsn: str, files: Path
) -> None:
    users.run(
        "CREATE VIEW users.mine AS SELECT tenant_id, historical_max_24h FROM anomaly_detection_features"
    )
    before, ours = users.state(), users.oid("anomaly_detection_features")
    code = files / "code" / "056_feature_views.sql"
    code.write_text(code.read_text().replace("historical_max_24h, lag_1h", "lag_1h"))
    number, name = add(files, "CREATE TABLE more (x integer)")
    with pytest.raises(
        ConflictError, match=r"users\.mine.*column .*historical_max_24h\"? does not exist"
    ) as refusal:
        migrate(dsn, sql=files)
    assert "create it anew" in str(refusal.value.hint)
    assert users.state() == before
    assert users.oid("anomaly_detection_features") == ours
    assert users.value("SELECT to_regclass('more')") is None

    users.run("DROP VIEW users.mine")
    assert migrate(dsn, sql=files).applied == [name]
    users.run("DROP TABLE more")
    users.forget(number)


def test_migrate__view_on_a_table_that_becomes_a_view__stays(users: Users, dsn: str, files: Path) -> None:
    first, _ = add(files, "CREATE TABLE named (x integer PRIMARY KEY DEFAULT 1)")
    migrate(dsn, sql=files)
    users.run("CREATE VIEW users.mine AS SELECT x + 1 AS y FROM named")
    before = users.value("SELECT pg_get_viewdef('users.mine'::regclass)")
    second, _ = add(files, "DROP TABLE named; CREATE VIEW named AS SELECT 41 AS x")
    migrate(dsn, sql=files)
    assert users.value("SELECT y FROM users.mine") == 42
    assert users.value("SELECT pg_get_viewdef('users.mine'::regclass)") == before
    users.run("DROP VIEW named CASCADE")
    for number in (first, second):
        users.forget(number)


FUNCTION = """
CREATE FUNCTION users.rows() RETURNS SETOF anomaly_detection_features LANGUAGE sql
    AS 'SELECT * FROM public.anomaly_detection_features'
"""
STANDARD_FUNCTION = """
CREATE FUNCTION users.count() RETURNS bigint LANGUAGE sql
    BEGIN ATOMIC SELECT count(*) FROM anomaly_detection_features; END
"""
RULE = """
CREATE TABLE users.log (x bigint);
CREATE RULE counting AS ON INSERT TO users.log DO ALSO SELECT count(*) FROM anomaly_detection_features
"""


@pytest.mark.parametrize(
    ("built", "name"),
    [
        (FUNCTION, r"function users\.rows\(\)"),
        (STANDARD_FUNCTION, r"function users\.count\(\)"),
        (RULE, r"rule counting on table users\.log"),
        ("CREATE TABLE users.kept (x anomaly_detection_features)", r"table users\.kept"),
    ],
)
def test_migrate__something_else_on_ours__is_named_and_nothing_changes(
    users: Users, dsn: str, files: Path, built: str, name: str
) -> None:
    users.run(built)
    ours = users.oid("anomaly_detection_features")
    touch(files)
    with pytest.raises(ConflictError, match=name):
        migrate(dsn, sql=files)
    assert users.oid("anomaly_detection_features") == ours


def test_migrate__aggregates_are_made_anew__views_on_them_stay(users: Users, dsn: str, files: Path) -> None:
    users.run(
        """
        GRANT SELECT ON hourly_features TO {role};
        CREATE VIEW users.hours AS SELECT tenant_id, hour, avg_value FROM hourly_features;
        CREATE VIEW users.days AS SELECT * FROM daily_features;
        ALTER VIEW users.hours OWNER TO {role};
        """
    )
    before, ours = users.state(), users.oid("hourly_features")
    aggregates = (files / "migrations" / "0019_hours_by_meaning.sql").read_text()
    aggregates = aggregates[aggregates.index("CREATE MATERIALIZED VIEW") : aggregates.index("SELECT add_")]
    ours_on_them = users.connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace"
        " AND relname ~ 'feature|hourly'"
        " AND relname NOT IN ('hourly_features', 'daily_features', 'feature_exports')"
        " ORDER BY oid DESC"
    ).fetchall()
    number, name = add(
        files,
        "\n".join(
            [
                "DROP SCHEMA IF EXISTS tenant_wall CASCADE;",
                *(f"DROP VIEW IF EXISTS {view};" for (view,) in ours_on_them),
                "DROP MATERIALIZED VIEW daily_features;",
                "DROP MATERIALIZED VIEW hourly_features;",
                aggregates,
            ]
        ),
    )
    assert migrate(dsn, sql=files).applied == [name]
    assert users.oid("hourly_features") != ours
    assert users.state() == before

    users.forget(number)
    users.run(
        """
        CREATE MATERIALIZED VIEW users.weeks WITH (timescaledb.continuous) AS
            SELECT tenant_id, time_bucket(INTERVAL '7 days', hour) AS week, max(max_value)
            FROM hourly_features GROUP BY 1, 2 WITH NO DATA
        """
    )
    with pytest.raises(ConflictError, match=r"continuous aggregate users\.weeks"):
        migrate(dsn, sql=files)
    users.run("DROP MATERIALIZED VIEW users.weeks")


def test_migrate__materialized_view__is_filled_as_its_owner(users: Users, dsn: str, files: Path) -> None:
    users.run(
        """
        GRANT SELECT ON anomaly_detection_feature_versions TO {role};
        CREATE FUNCTION users.who() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
        CREATE MATERIALIZED VIEW users.spy AS
            SELECT users.who() AS who, count(lag_1h) FROM anomaly_detection_feature_versions;
        ALTER MATERIALIZED VIEW users.spy OWNER TO {role};
        REFRESH MATERIALIZED VIEW users.spy;
        """
    )
    touch(files)
    migrate(dsn, sql=files)
    assert users.value("SELECT who FROM users.spy") == users.role

    users.run("REVOKE SELECT ON anomaly_detection_feature_versions FROM {role}")
    touch(files)
    with pytest.raises(ConflictError, match=r"users\.spy.*permission denied"):
        migrate(dsn, sql=files)
    assert users.value("SELECT who FROM users.spy") == users.role

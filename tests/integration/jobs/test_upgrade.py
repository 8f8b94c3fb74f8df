# ruff: noqa: E501 - SQL as it is sent
"""Export jobs of an earlier release become jobs, and look as they did."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.errors import FeatureNotSupported
from psycopg.rows import dict_row

from ai_hub import paths
from ai_hub.db import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

MIGRATIONS = sorted((paths.resource("sql") / "migrations").glob("*.sql"))
MIGRATION = next(path for path in MIGRATIONS if path.name.endswith("_jobs.sql") and "export" not in path.name)
(POLICY,) = (
    statement
    for statement in (paths.resource("sql") / "code" / "070_tenant_wall.sql").read_text().split(";\n")
    if statement.startswith("CREATE POLICY own_tenant ON jobs")
)
EXPORTS = """
INSERT INTO feature_exports (
    tenant_id, feature_set, start_time, end_time, asset_ids, status, row_count, file_size_bytes, sha256, storage_path,
    error, started_at, completed_at, output_path, partition_by, idempotency_key, request_hash, requested_by, progress,
    cancel_requested, attempts, worker, lease_until, service_version, fence, clean_after, expired_at, file_sha256
) VALUES
    ('one', 'a', '2026-01-01Z', '2026-02-01Z', ARRAY['m"1', 'm2'], 'completed', 7, 900, 'ab', 's3://b/one/x', NULL,
        '2026-03-01Z', '2026-03-02 01:02:03.456789Z', 'x', 'month', 'key', 'h1', 'ada', 1, false, 1, NULL, NULL, 'v1', 2,
        NULL, NULL, '{"year_month=2026-01/part-0.parquet": "cd"}'),
    ('one', 'b', '2026-01-01Z', '2026-02-01Z', NULL, 'completed', 0, 90, 'ab', NULL, NULL,
        '2026-03-01Z', '2026-03-02Z', 'y', NULL, NULL, 'h2', NULL, 1, false, 1, NULL, NULL, 'v1', 1,
        NULL, '2026-04-01Z', NULL),
    ('two', 'b', '2026-01-01Z', '2026-02-01Z', NULL, 'running', NULL, NULL, NULL, NULL, NULL,
        '2026-03-01Z', NULL, 'y', NULL, NULL, 'h2', NULL, 0.5, true, 2, 'host:1', '2026-03-01Z', NULL, 5,
        NULL, NULL, NULL),
    ('two', 'b', '2026-01-01Z', '2026-02-01Z', NULL, 'failed', NULL, NULL, NULL, NULL, 'wrong',
        '2026-03-01Z', '2026-03-02Z', 'z', NULL, NULL, 'h3', NULL, 0.5, false, 3, NULL, NULL, NULL, 3,
        '2026-03-03Z', NULL, NULL)
"""


def rows(connection: Connection[Any]) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM feature_exports ORDER BY tenant_id, output_path").fetchall()


@pytest.fixture
def earlier(database: str) -> Iterator[tuple[Connection[Any], str]]:
    with earlier_release(database) as found:
        yield found


@contextmanager
def earlier_release(address: str) -> Iterator[tuple[Connection[Any], str]]:
    """A connection in whose transaction there is the table of the earlier release, and its schema."""
    name = f"earlier_{secrets.token_hex(4)}"
    with connect(address, autocommit=True) as connection:
        # in a schema of its own, which nobody else sees
        with connection.transaction():
            connection.execute(f"CREATE SCHEMA {name}; SET LOCAL search_path = {name}, public")
            for path in MIGRATIONS[: MIGRATIONS.index(MIGRATION)]:
                for statement in path.read_text().split(";\n"):
                    if "feature_exports" in statement:
                        connection.execute(statement.encode())
        connection.execute(f"SET search_path = {name}, public")
        try:
            with connection.transaction(force_rollback=True):
                yield connection, name
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE")


def test_exports__of_every_status__look_as_before(earlier: tuple[Connection[Any], str]) -> None:
    connection, _ = earlier
    connection.execute(EXPORTS)
    before = rows(connection)
    assert len(before) == 4

    connection.execute(MIGRATION.read_bytes())
    after = rows(connection)
    counts = [each.pop("asset_count") for each in after]
    assert after == before
    assert counts == [2, None, None, None]
    # the one that was running is stalled
    found = connection.execute(
        "SELECT queueing_lock, fence, lease_until < now() FROM jobs WHERE status = 'running'"
    )
    assert found.fetchall() == [("y", 5, True)]


def test_rights__stay__and_show_rows_of_the_own_tenant_alone(earlier: tuple[Connection[Any], str]) -> None:
    connection, schema = earlier
    connection.execute(EXPORTS)
    connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO ai_hub_tenant")
    connection.execute("GRANT SELECT, DELETE ON feature_exports TO ai_hub_tenant")
    connection.execute("GRANT UPDATE ON feature_exports TO ai_hub_tenant WITH GRANT OPTION")
    connection.execute(MIGRATION.read_bytes())
    for relation in ("feature_exports", "jobs"):
        granted = connection.execute(
            "SELECT privilege_type, is_grantable FROM information_schema.role_table_grants"
            " WHERE table_schema = %s AND table_name = %s AND grantee = 'ai_hub_tenant'",
            [schema, relation],
        ).fetchall()
        assert sorted(granted) == [("DELETE", "NO"), ("SELECT", "NO"), ("UPDATE", "YES")]

    def seen() -> list[str]:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL ROLE ai_hub_tenant; SET LOCAL ai_hub.tenant = 'two'")
            return [row["tenant_id"] for row in rows(connection)]

    assert seen() == []  # before the code of this release adds the policy
    connection.execute(POLICY.encode())
    assert seen() == ["two", "two"]
    assert len(rows(connection)) == 4


def test_export_that_is_committed_meanwhile__is_waited_for(native_postgres: str) -> None:
    waiting = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
    with (
        earlier_release(native_postgres) as (connection, schema),
        connect(native_postgres) as other,
        connect(native_postgres, autocommit=True) as watching,
    ):
        other.execute(f"SET search_path = {schema}, public")
        other.execute(EXPORTS)
        with ThreadPoolExecutor(1) as pool:
            migrated = pool.submit(connection.execute, MIGRATION.read_bytes())
            while watching.execute(waiting, [connection.info.backend_pid]).fetchone() is None:
                assert not migrated.done()
            other.commit()
            migrated.result()
        assert len(rows(connection)) == 4


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("GRANT SELECT (status) ON feature_exports TO ai_hub_tenant", "single columns.* \\(status\\)"),
        (
            "CREATE TRIGGER told AFTER INSERT ON feature_exports EXECUTE FUNCTION tsvector_update_trigger()",
            "trigger told",
        ),
    ],
)
def test_what_a_view_cannot_have__is_named__and_nothing_is_changed(
    earlier: tuple[Connection[Any], str], statement: str, lost: str
) -> None:
    connection, _ = earlier
    connection.execute(EXPORTS)
    connection.execute(statement.encode())
    with pytest.raises(FeatureNotSupported, match=lost), connection.transaction():
        connection.execute(MIGRATION.read_bytes())
    assert len(rows(connection)) == 4


def test_worker_of_the_earlier_release__acquires_no_job(earlier: tuple[Connection[Any], str]) -> None:
    connection, _ = earlier
    connection.execute(EXPORTS)
    connection.execute(MIGRATION.read_bytes())
    with pytest.raises(psycopg.Error, match='cannot update column "worker"'), connection.transaction():
        connection.execute(
            "UPDATE feature_exports SET status = 'running', worker = 'host:1', fence = fence + 1"
        )

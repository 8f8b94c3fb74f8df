# ruff: noqa: E501 - SQL as it is sent
"""Export jobs of an earlier release become jobs, and look as they did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from ai_hub import paths
from ai_hub.database import connect

if TYPE_CHECKING:
    from psycopg import Connection

MIGRATIONS = sorted((paths.resource("sql") / "migrations").glob("*.sql"))
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


def test_exports__of_every_status__look_as_before(database: str) -> None:
    (number, migration) = next(
        (number, path)
        for number, path in enumerate(MIGRATIONS)
        if path.name.endswith("_jobs.sql") and "0009" not in path.name
    )
    with connect(database) as connection:
        # in a schema of its own, which nobody else sees
        connection.execute("CREATE SCHEMA earlier; SET LOCAL search_path = earlier, public")
        for path in MIGRATIONS[:number]:
            for statement in path.read_text().split(";\n"):
                if "feature_exports" in statement:
                    connection.execute(statement.encode())
        connection.execute(EXPORTS)
        connection.execute("GRANT SELECT, DELETE ON feature_exports TO ai_hub_tenant")
        before = rows(connection)
        assert len(before) == 4

        connection.execute(migration.read_bytes())
        after = rows(connection)
        counts = [each.pop("asset_count") for each in after]
        assert after == before
        assert counts == [2, None, None, None]
        granted = connection.execute(
            "SELECT privilege_type FROM information_schema.role_table_grants"
            " WHERE table_schema = 'earlier' AND table_name = 'feature_exports' AND grantee = 'ai_hub_tenant'"
        ).fetchall()
        assert sorted(granted) == [("DELETE",), ("SELECT",)]
        # the one that was running is stalled
        found = connection.execute(
            "SELECT queueing_lock, fence, lease_until < now() FROM jobs WHERE status = 'running'"
        )
        assert found.fetchall() == [("y", 5, True)]
        connection.rollback()

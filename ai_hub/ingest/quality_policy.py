"""What features make of readings that are not good, by tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ai_hub.ingest.assets import check

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from psycopg import Connection

QUALITIES = ("suspect", "estimated")
#: Time whose readings are brought in line in one transaction.
BATCH = timedelta(days=7)


def read(connection: Connection[Any], tenant: str) -> dict[str, bool]:
    """Whether features use readings of each quality."""
    rows = connection.execute(
        "SELECT quality, quality_in_features(%s, quality) FROM unnest(%s::text[]) AS quality",
        [tenant, list(QUALITIES)],
    )
    return dict(rows.fetchall())


def put(connection: Connection[Any], tenant: str, policy: Mapping[str, bool]) -> int:
    """Set whether features use readings of these qualities; how many stored readings that changed.

    Readings are brought in line a week at a time, each in a transaction of its own, and queue their hours for
    the next refresh. Called again after it was killed, it goes on. The connection must be in autocommit mode.
    """
    check(tenant_id=tenant, asset_id="any")
    with connection.transaction():
        # waits for writers that have judged readings by the old policy, so that none is missed below
        connection.execute("LOCK TABLE quality_policies IN ACCESS EXCLUSIVE MODE")
        for quality, used in policy.items():
            connection.execute(
                "INSERT INTO quality_policies (tenant_id, quality, in_features) VALUES (%s, %s, %s)"
                " ON CONFLICT (tenant_id, quality) DO UPDATE SET in_features = excluded.in_features",
                [tenant, quality, used],
            )
    row = connection.execute(
        "SELECT min(first_hour), max(last_hour) FROM asset_spans WHERE tenant_id = %s", [tenant]
    ).fetchone()
    start, last = row if row is not None else (None, None)
    changed = 0
    while start is not None and start <= last:
        changed += _reapply(connection, tenant, start, start + BATCH)
        start = _next(connection, tenant, start + BATCH)
    return changed


def _reapply(connection: Connection[Any], tenant: str, start: datetime, until: datetime) -> int:
    row = connection.execute("SELECT reapply_quality_policy(%s, %s, %s)", [tenant, start, until]).fetchone()
    return 0 if row is None else int(row[0])


def _next(connection: Connection[Any], tenant: str, at: datetime) -> datetime | None:
    """Time of the tenant's next reading: years without any take no time."""
    row = connection.execute(
        'SELECT min(first."timestamp") FROM asset_spans AS spans CROSS JOIN LATERAL ('
        ' SELECT "timestamp" FROM timeseries_data AS readings WHERE readings.tenant_id = spans.tenant_id'
        ' AND readings.asset_id = spans.asset_id AND readings."timestamp" >= %s ORDER BY "timestamp" LIMIT 1'
        ") AS first WHERE spans.tenant_id = %s",
        [at, tenant],
    ).fetchone()
    return None if row is None else row[0]

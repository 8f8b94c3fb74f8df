"""Policies of a tenant: which times of readings are accepted, and which qualities features use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from ai_hub.ingest.assets import validate_asset
from ai_hub.ingest.findings import SUSPECTS
from ai_hub.names import check_tenant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from psycopg import Connection

#: How far a reading or an issue time may lie in the future, as clocks differ.
AHEAD = pd.Timedelta(days=1)


#: Earliest accepted time: clocks that were reset count from 1970 or 2000.
EARLIEST = pd.Timestamp("2005-01-01", tz="UTC")


@dataclass(frozen=True)
class Bounds:
    """Times of readings that are accepted; see `ai-hub ingest bounds`."""

    earliest: pd.Timestamp = EARLIEST
    #: How far in the future.
    ahead: pd.Timedelta = AHEAD


BOUNDS = Bounds()


def find_bounds(connection: Connection[Any], tenant: str) -> Bounds:
    """The tenant's bounds, or `BOUNDS`."""
    row = connection.execute(
        "SELECT earliest, ahead FROM reading_bounds WHERE tenant_id = %s", [tenant]
    ).fetchone()
    if row is None:
        return BOUNDS
    return Bounds(pd.Timestamp(row[0]).tz_convert("UTC"), pd.Timedelta(row[1]))


def save_bounds(
    connection: Connection[Any], tenant: str, *, earliest: datetime | None, ahead: timedelta | None
) -> Bounds:
    """Change those of the tenant's bounds that are not None; returns the new bounds.

    Raises:
        BadInputError: the tenant's name is invalid.
    """
    before = find_bounds(connection, check_tenant(tenant))
    values = [
        tenant,
        before.earliest.to_pydatetime() if earliest is None else earliest,
        before.ahead.to_pytimedelta() if ahead is None else ahead,
    ]
    connection.execute(
        "INSERT INTO reading_bounds (tenant_id, earliest, ahead) VALUES (%s, %s, %s)"
        " ON CONFLICT (tenant_id) DO UPDATE SET earliest = excluded.earliest, ahead = excluded.ahead",
        values,
    )
    return find_bounds(connection, tenant)


#: `found`: readings that an open finding calls probably wrong, whatever their own quality.
QUALITIES = ("suspect", "estimated", "found")
#: Time range of the readings that are updated in one transaction.
BATCH = timedelta(days=7)


def find_quality_policy(connection: Connection[Any], tenant: str) -> dict[str, bool]:
    """Whether features use readings of each quality."""
    rows = connection.execute(
        "SELECT quality, quality_in_features(%s, quality) FROM unnest(%s::text[]) AS quality",
        [tenant, list(QUALITIES)],
    )
    return dict(rows.fetchall())


def save_quality_policy(connection: Connection[Any], tenant: str, policy: Mapping[str, bool]) -> int:
    """Set whether features use readings of these qualities; returns the number of changed readings.

    Readings are updated one week per transaction, which queues their hours for the next refresh. A repeated
    call resumes a killed one. The connection must be in autocommit mode.
    """
    validate_asset(tenant_id=tenant, asset_id="any")
    with connection.transaction():
        # waits for writers that still use the old policy, so that their readings are updated below
        connection.execute("LOCK TABLE quality_policies IN ACCESS EXCLUSIVE MODE")
        for quality, used in policy.items():
            connection.execute(
                "INSERT INTO quality_policies (tenant_id, quality, in_features) VALUES (%s, %s, %s)"
                " ON CONFLICT (tenant_id, quality) DO UPDATE SET in_features = excluded.in_features",
                [tenant, quality, used],
            )
    changed = 0
    if "found" in policy:
        changed += _reapply_open(connection, tenant)
    row = connection.execute(
        "SELECT min(first_hour), max(last_hour) FROM asset_spans WHERE tenant_id = %s", [tenant]
    ).fetchone()
    start, last = row if row is not None else (None, None)
    while start is not None and start <= last:
        if "found" in policy:
            changed += _reapply_left_out(connection, tenant, start, start + BATCH)
        if policy.keys() - {"found"}:
            changed += _reapply(connection, tenant, start, start + BATCH)
        start = _next(connection, tenant, start + BATCH)
    return changed


def _reapply_open(connection: Connection[Any], tenant: str) -> int:
    """Bring the readings of all open findings in line; how many changed."""
    findings = connection.execute(
        "SELECT asset_id, first_timestamp, last_timestamp FROM data_findings"
        " WHERE tenant_id = %s AND kind = ANY (%s::text[]) AND resolved_at IS NULL ORDER BY 1, 2",
        [tenant, [kind.value for kind in SUSPECTS]],
    ).fetchall()
    changed = 0
    for asset_id, first, last in findings:
        start = first
        while start <= last:
            changed += reapply_findings(connection, tenant, asset_id, start, min(start + BATCH, last))
            start += BATCH
    return changed


def _reapply_left_out(connection: Connection[Any], tenant: str, start: datetime, until: datetime) -> int:
    """Bring readings of [start, until) that features do not use in line; how many changed."""
    ranges = connection.execute(
        'SELECT asset_id, min("timestamp"), max("timestamp") FROM timeseries_data'
        ' WHERE tenant_id = %s AND "timestamp" >= %s AND "timestamp" < %s AND NOT in_features'
        " GROUP BY asset_id ORDER BY asset_id",
        [tenant, start, until],
    ).fetchall()
    return sum(reapply_findings(connection, tenant, *each) for each in ranges)


def reapply_findings(
    connection: Connection[Any], tenant: str, asset_id: str, first: datetime, last: datetime
) -> int:
    """Bring an asset's readings in line with open findings and the policy for them; how many changed."""
    row = connection.execute(
        "SELECT reapply_findings(%s, %s, %s, %s)", [tenant, asset_id, first, last]
    ).fetchone()
    return 0 if row is None else int(row[0])


def _reapply(connection: Connection[Any], tenant: str, start: datetime, until: datetime) -> int:
    row = connection.execute("SELECT reapply_quality_policy(%s, %s, %s)", [tenant, start, until]).fetchone()
    return 0 if row is None else int(row[0])


def _next(connection: Connection[Any], tenant: str, at: datetime) -> datetime | None:
    """Time of the tenant's first reading from `at` on, so that years without readings are skipped."""
    row = connection.execute(
        'SELECT min(first."timestamp") FROM asset_spans AS spans CROSS JOIN LATERAL ('
        ' SELECT "timestamp" FROM timeseries_data AS readings WHERE readings.tenant_id = spans.tenant_id'
        ' AND readings.asset_id = spans.asset_id AND readings."timestamp" >= %s ORDER BY "timestamp" LIMIT 1'
        ") AS first WHERE spans.tenant_id = %s",
        [at, tenant],
    ).fetchone()
    return None if row is None else row[0]

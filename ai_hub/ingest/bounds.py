"""Which times of readings a tenant takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ai_hub.database.tenant_wall import check_tenant
from ai_hub.ingest.rules import BOUNDS, Bounds

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from psycopg import Connection


def find(connection: Connection[Any], tenant: str) -> Bounds:
    """The tenant's bounds, or the default ones."""
    row = connection.execute(
        "SELECT earliest, ahead FROM reading_bounds WHERE tenant_id = %s", [tenant]
    ).fetchone()
    if row is None:
        return BOUNDS
    return Bounds(pd.Timestamp(row[0]).tz_convert("UTC"), pd.Timedelta(row[1]))


def put(
    connection: Connection[Any], tenant: str, *, earliest: datetime | None, ahead: timedelta | None
) -> Bounds:
    """Change what is given of the tenant's bounds; those in force now.

    Raises:
        BadInputError: that cannot be a tenant.
    """
    before = find(connection, check_tenant(tenant))
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
    return find(connection, tenant)

"""Scores of 300 days of a model in production, without forecasts: what findings and retraining look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from psycopg import Connection

DAY = timedelta(days=1)
PRESENT = datetime(2026, 10, 12, 6, tzinfo=UTC)
MODEL = "ahead"
LIVE = ((MODEL, "live"),)


def fill(
    connection: Connection[Any],
    owner: str,
    today: date,
    *,
    meters: Sequence[str] = ("a",),
    models: Sequence[tuple[str, str]] = LIVE,
) -> None:
    """Of the days before today, by version 3, with errors that vary by 3 %; the meters are there already."""
    connection.execute(
        "INSERT INTO forecast_scores (tenant_id, asset_id, day, model, version, role, unit, lead_hours,"
        " hours, error, absolute, squared, actual, banded, covered, width)"
        " SELECT %s, asset, %s::date - number, model, 3, role, 'kW', lead, 24, 0,"
        " 24 * (2 + 0.06 * sin(number)), 99, 240, 24, 19, 99"
        " FROM generate_series(1, 300) AS number, unnest(ARRAY[0, 6]) AS lead, unnest(%s::text[]) AS asset,"
        " unnest(%s::text[], %s::text[]) AS models (model, role)",
        [owner, today, list(meters), *(list(names) for names in zip(*models, strict=True))],
    )


def spoil(
    connection: Connection[Any],
    tenant: str,
    last_days: int,
    factor: float,
    *,
    model: str = MODEL,
    role: str = "live",
) -> None:
    """Multiply the absolute errors of the last days."""
    connection.execute(
        "UPDATE forecast_scores SET absolute = absolute * %s WHERE tenant_id = %s AND day >= %s"
        " AND role = %s AND model = %s",
        [factor, tenant, PRESENT.date() - last_days * DAY, role, model],
    )


def promoted(connection: Connection[Any], tenant: str, version: int, last_days: int) -> None:
    """The last days are of another version."""
    connection.execute(
        "UPDATE forecast_scores SET version = %s WHERE tenant_id = %s AND day >= %s AND role = 'live'",
        [version, tenant, PRESENT.date() - last_days * DAY],
    )

"""Brings `ai_features` up to date for what changed since the last refresh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from ai_hub.database.connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import psycopg

#: Feature rows computed in one transaction: bounds memory and how long others wait.
BATCH_ROWS = 5_000
# statistics go stale in one go after a bulk load; small refreshes leave them to autovacuum
_ANALYZE_FROM_ROWS = 10_000


@dataclass(frozen=True)
class Refreshed:
    """Rows planned and computed by one refresh."""

    rows: int


def refresh(
    *,
    since: datetime | None = None,
    dsn: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Refreshed:
    """Compute the feature rows that new, late or corrected readings and weather touch.

    With `since`, every row and aggregate from then on is recomputed. Calls `progress(done, total)` in rows.
    Waits for another refresh that is running; killed midway, the next call goes on.
    """
    with connect(dsn, autocommit=True, application_name="ai-hub refresh") as connection:
        connection.execute("SELECT pg_advisory_lock(feature_refresh_lock())")
        total = _scalar(connection, "SELECT plan_feature_refresh(%s)", [since])
        connection.execute("CALL refresh_feature_aggregates(%s)", [since])
        if total >= _ANALYZE_FROM_ROWS:
            connection.execute("ANALYZE asset_spans, hourly_features, weather_features")
        done = 0
        while batch := _scalar(connection, "SELECT compute_feature_batch(%s)", [BATCH_ROWS]):
            done += batch
            if progress:
                progress(done, total)
        if total >= _ANALYZE_FROM_ROWS:
            connection.execute("ANALYZE ai_features")
        connection.execute("SELECT pg_advisory_unlock(feature_refresh_lock())")
    return Refreshed(rows=done)


def _scalar(connection: psycopg.Connection, query: LiteralString, parameters: list[object]) -> int:
    row = connection.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0

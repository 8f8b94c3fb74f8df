"""What the tenant scope costs: it must not keep conditions away from the indexes.

On a native TimescaleDB where there is one: older planners than the embedded one let less through a barrier.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from oracles.features import HOUR, Weather, floor_hour
from support.feature_tables import write, write_weather
from support.scoped_database import new_database

from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

_UNSTORED = 3


@pytest.fixture
def fullest(database: str) -> Iterator[str]:
    native = os.environ.get("AI_HUB_BENCH_DSN")
    if native is None:
        yield database
        return
    with new_database(native) as dsn:
        migrate(dsn)
        yield dsn


def _record(dsn: str, connection: psycopg.Connection, tenant: str, asset: str, days: int) -> datetime:
    """Hourly readings and weather of the last days; the newest rows are in no table."""
    end = floor_hour(datetime.now(UTC))
    hours = [end - number * HOUR for number in range(1, days * 24)]
    write(connection, tenant, asset, {hour: 1.0 + hour.hour for hour in hours})
    write_weather(connection, tenant, asset, [Weather(hour, hour - 6 * HOUR, 7.5) for hour in hours])
    refresh(dsn=dsn)
    oldest = end - (_UNSTORED - 1) * HOUR
    connection.execute(
        "DELETE FROM ai_features_stored WHERE tenant_id = %s AND asset_id = %s AND hour >= %s",
        [tenant, asset, oldest],
    )
    connection.execute(
        "UPDATE declared_spans SET stored = stored * tstzmultirange(tstzrange(NULL, %s))"
        " WHERE tenant_id = %s AND asset_id = %s",
        [oldest, tenant, asset],
    )
    return end


def _visited(plan: dict[str, Any]) -> Iterator[int]:
    """Rows of tables that each node of a plan has met."""
    if "Relation Name" in plan:
        yield plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    for inner in plan.get("Plans", ()):
        yield from _visited(inner)


def _read(connection: psycopg.Connection, tenant: str, asset: str, hour: datetime) -> tuple[int, int]:
    """How many rows the newest rows of an asset are, and how many rows of tables they took."""
    query = (
        "SELECT * FROM forecast_advanced_features WHERE tenant_id = %s AND asset_id = %s"
        " AND event_timestamp > %s AND event_timestamp <= %s"
    )
    given = [tenant, asset, hour - timedelta(hours=_UNSTORED), hour]
    with as_tenant(connection, tenant):
        rows = connection.execute(query, given).fetchall()  # type: ignore[arg-type]
        explained = connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query}", given).fetchone()  # type: ignore[arg-type]
    assert explained is not None
    return len(rows), sum(_visited(explained[0][0]["Plan"]))


def test_rows_that_no_refresh_stored__long_history__read_no_more_of_it(fullest: str, tenant: str) -> None:
    with connect(fullest, autocommit=True) as connection:
        hour = _record(fullest, connection, tenant, "short", 10)
        rows, visited = _read(connection, tenant, "short", hour)
        hour = _record(fullest, connection, tenant, "long", 60)
        again, visited_of_long = _read(connection, tenant, "long", hour)
    assert (rows, visited > _UNSTORED * 24) == (_UNSTORED, True)
    assert again == rows
    # a few more in what nodes without an index read whole
    assert visited_of_long < 2 * visited

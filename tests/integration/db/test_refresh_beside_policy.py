"""A refresh beside TimescaleDB's own: hours that the other one is about to materialize are waited for."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
from oracles.features import HOUR, Asset, floor_hour
from support.feature_tables import assert_views_equal, write
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from ai_hub.db import connect
from ai_hub.db.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = """
SELECT format('%%I.%%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks AS chunks
JOIN timescaledb_information.continuous_aggregates AS aggregates
    ON chunks.hypertable_schema = aggregates.materialization_hypertable_schema
    AND chunks.hypertable_name = aggregates.materialization_hypertable_name
WHERE aggregates.view_name = 'hourly_features' AND range_start <= %(hour)s AND range_end > %(hour)s
"""
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'policy' AND wait_event_type = 'Lock'"
)
_REFRESHING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ai-hub refresh'"
    " AND (wait_event = 'PgSleep' OR wait_event_type = 'Lock')"
)


def test_refresh__hour_is_being_materialized_by_another__waits_for_it(database: str, tenant: str) -> None:
    hour = floor_hour(datetime.now(UTC)) - timedelta(days=3)
    asset = Asset(readings={hour + number * HOUR: 100.0 + number for number in range(30)})
    with connect(database, autocommit=True) as connection, psycopg.connect(database) as blocker:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        late = {hour + 5 * HOUR + timedelta(minutes=10): 900.0}
        asset.readings |= late
        write(connection, tenant, "meter", late)
        ((chunk,),) = connection.execute(_CHUNK, {"hour": hour + 5 * HOUR}).fetchall()
        blocker.execute(f"LOCK TABLE {chunk} IN EXCLUSIVE MODE")  # type: ignore[arg-type]
        policy = threading.Thread(target=_materialize, args=(database,))
        ours = threading.Thread(target=refresh, kwargs={"dsn": database})
        policy.start()
        _until(lambda: _count(connection, _WAITING))
        ours.start()
        try:
            _until(lambda: _count(connection, _REFRESHING) or not ours.is_alive())
        finally:
            blocker.rollback()
            policy.join()
            ours.join()
        assert_views_equal(connection, tenant, "meter", asset)


def _materialize(dsn: str) -> None:
    with connect(dsn, autocommit=True, application_name="policy") as connection:
        connection.execute("CALL refresh_continuous_aggregate('hourly_features', NULL, NULL)")


def _count(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    return int(row[0]) if row else 0


@retry(retry=retry_if_result(lambda done: not done), wait=wait_fixed(0.05), stop=stop_after_delay(60))
def _until(condition: Callable[[], object]) -> bool:
    return bool(condition())

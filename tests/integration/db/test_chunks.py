"""Chunks to come follow the rate of the readings; those that are there stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ai_hub.db import connect

DAYS = timedelta(days=1)


def test_follow_rate__many_rows_a_day__shorter_new_chunks__and_back(database: str) -> None:
    now = datetime.now(UTC)
    with connect(database) as connection:
        connection.execute(
            'INSERT INTO timeseries_data (tenant_id, asset_id, "timestamp", value)'
            " SELECT 'chunks', 'a', %s - number * INTERVAL '1 minute', 1"
            " FROM generate_series(1, 10000) AS number",
            [now],
        )
        connection.execute("ANALYZE timeseries_data")
        chunks = "SELECT count(*), min(range_start) FROM timescaledb_information.chunks"
        before = connection.execute(chunks).fetchone()

        def intervals(most_rows: int) -> dict[str, timedelta]:
            found = connection.execute("SELECT * FROM follow_rate_with_chunks(%s)", [most_rows]).fetchall()
            return {name: after for name, _, after in found}

        assert intervals(10**9) == {}
        short = intervals(1000)["timeseries_data"]
        assert short < 30 * DAYS
        assert intervals(1000) == {}
        assert intervals(1)["timeseries_data"] == timedelta(hours=1)
        assert connection.execute(chunks).fetchone() == before
        assert intervals(10**9)["timeseries_data"] == 30 * DAYS
        connection.rollback()

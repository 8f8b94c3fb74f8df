"""Readings and assets are removed with what follows from them, and nothing of others is."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from oracles.features import HOUR, Asset, Issue, Weather, floor_hour
from psycopg.errors import RaiseException
from support.feature_tables import assert_views_equal, now, register, write, write_series, write_weather

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.ingest import policies, removal
from ai_hub.ingest.files import ingest_readings
from ai_hub.ingest.options import Options
from ai_hub.ingest.removal import Selection

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

DAY = timedelta(days=1)
TABLES = (
    *("assets", "timeseries_data", "weather_features", "ai_features_stored", "asset_spans"),
    *("data_findings", "data_checks_due", "hourly_features", "daily_features", "ai_features", "forecasts"),
)
FORECAST = """
WITH run AS (
    INSERT INTO forecast_runs
        (run_id, tenant_id, model, role, issued_at, known_at, step, horizon, status, assets)
    SELECT gen_random_uuid(), %(tenant)s, 'm', 'backtest', now(), now(), '1 h', '1 h', 'complete', %(assets)s
    RETURNING *
)
INSERT INTO forecasts (target_time, tenant_id, asset_id, run_id, issued_at, value, status)
SELECT now(), tenant_id, asset, run_id, now(), 1, 'ok' FROM run, unnest(assets) AS asset
"""


def series(days: int, ago: int) -> Asset:
    start = floor_hour(datetime.now(UTC)) - ago * DAY
    return Asset(readings={start + step * HOUR: float(step % 31) for step in range(24 * days)})


def counts(connection: psycopg.Connection, tenant: str, asset: str) -> dict[str, Any]:
    return {
        table: connection.execute(
            f"SELECT count(*) FROM {table} WHERE tenant_id = %s AND asset_id = %s",  # type: ignore[arg-type]  # noqa: S608  # constants
            [tenant, asset],
        ).fetchone()
        for table in TABLES
    }


def test_delete_readings__a_day_in_the_columnstore__goes_and_stays_known(database: str, tenant: str) -> None:
    mine, other = series(10, 130), series(10, 130)
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", mine.readings)
        write(connection, f"{tenant}-x", "meter", other.readings)
        refresh(dsn=database)
        connection.execute(
            "SELECT compress_chunk(chunk, if_not_compressed => true)"
            " FROM show_chunks('timeseries_data', now() - INTERVAL '90 days') AS chunk"
        ).fetchall()
        then, known = now(connection), deepcopy(mine)
        first = min(mine.readings) + 3 * DAY
        selection = Selection(tenant, ["meter"], first, first + DAY)
        preview = removal.preview_readings(connection, selection)
        assert preview.counts == {"readings": 24, "hours": 24, "feature_rows": 47 + 1}
        assert removal.delete_readings(connection, selection, "a test") == preview
        mine.readings = {time: v for time, v in mine.readings.items() if not first <= time < first + DAY}
        assert_views_equal(connection, tenant, "meter", mine)
        assert_views_equal(connection, tenant, "meter", known, known_at=then)
        assert_views_equal(connection, f"{tenant}-x", "meter", other)
        # again, as after a kill: nothing is left to do
        assert removal.delete_readings(connection, selection, "a test").counts["readings"] == 0
        log = removal.history(connection, tenant)
        assert [item["step"] for item in log] == ["finished", "started"] * 2
        assert log[-1]["reason"] == "a test"
        assert log[-1]["counts"]["readings"] == 24
        assert removal.history(connection, f"{tenant}-x") == []
        with pytest.raises(RaiseException, match="append-only"):
            connection.execute("DELETE FROM removals")


@pytest.mark.parametrize("rows", [100, *(pytest.param(rows, marks=pytest.mark.long) for rows in (25, 7))])
def test_delete_readings__batches__end_the_same(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(removal, "BATCH_ROWS", rows)
    asset = series(3, 3)
    asset.readings[datetime(1970, 1, 1, tzinfo=UTC)] = 0.0
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        end = max(asset.readings) - 10 * HOUR
        removal.delete_readings(connection, Selection(tenant, None, None, end), "outliers")
        asset.readings = {time: value for time, value in asset.readings.items() if time >= end}
        assert_views_equal(connection, tenant, "meter", asset)


def test_delete_readings__wrong_requests__are_refused(database: str, tenant: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with connect(database, autocommit=True) as connection:
        with pytest.raises(BadInputError, match="empty"):
            removal.preview_readings(connection, Selection(tenant, None, start, start))
        with pytest.raises(NotFoundError, match="no asset"):
            removal.preview_readings(connection, Selection(tenant, ["nobody"], start, None))
        with pytest.raises(BadInputError, match="--reason"):
            removal.delete_readings(connection, Selection(tenant, None, start, None), " ")


def test_remove_asset__takes_all_of_it_and_nothing_of_others(database: str, tenant: str) -> None:
    others = [(tenant, "other"), (f"{tenant}-x", "meter")]
    with connect(database, autocommit=True) as connection:
        for owner, name in [(tenant, "meter"), *others]:
            asset = series(4, 4)
            register(connection, owner, name, "UTC")
            write(connection, owner, name, asset.readings)
            start = min(asset.readings)
            write_weather(connection, owner, name, [Weather(start, start, 4.0)])
            connection.execute(
                "INSERT INTO data_findings"
                " (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail)"
                " VALUES (%s, %s, 'gap', now(), now(), '{}')",
                [owner, name],
            )
            for names in ([name], ["meter", "other"]):
                connection.execute(FORECAST, {"tenant": owner, "assets": names})
        refresh(dsn=database)
        before = {key: counts(connection, *key) for key in others}
        connection.execute(
            "UPDATE assets SET weather_asset_id = 'meter' WHERE tenant_id = %s AND asset_id = 'other'",
            [tenant],
        )
        with pytest.raises(ConflictError, match="other"):
            removal.remove_asset(connection, tenant, "meter", "sold")
        connection.execute("UPDATE assets SET weather_asset_id = NULL WHERE tenant_id = %s", [tenant])
        refresh(dsn=database)
        before = {key: counts(connection, *key) for key in others}
        gone = removal.remove_asset(connection, tenant, "meter", "sold")
        assert gone.counts["timeseries_data"] == 96
        assert (gone.counts["forecasts"], gone.counts["forecast_runs"]) == (3, 1)
        assert set(counts(connection, tenant, "meter").values()) == {(0,)}
        assert {key: counts(connection, *key) for key in others} == before
        with pytest.raises(NotFoundError):
            removal.remove_asset(connection, tenant, "meter", "sold")


def test_remove_asset__series_of_the_asset__go_where_the_name_is_of_nobody_else(
    database: str, tenant: str
) -> None:
    with connect(database, autocommit=True) as connection:
        start = floor_hour(now(connection))
        zones = [(tenant, "meter"), (tenant, "shared"), (tenant, "other"), (f"{tenant}-x", "meter")]
        for owner, name in zones:
            write_series(connection, owner, "plan", name, [Issue(start, start, 1.0)])
        for name in ("meter", "shared", "other"):
            register(connection, tenant, name, "UTC")
        connection.execute(
            "UPDATE assets SET price_zone = 'shared' WHERE tenant_id = %s AND asset_id <> 'meter'", [tenant]
        )
        for name, count in (("meter", 1), ("shared", 0)):
            assert removal.remove_asset(connection, tenant, name, "sold").counts["covariates"] == count
        left = connection.execute(
            "SELECT tenant_id, zone FROM covariates WHERE starts_with(tenant_id, %s) ORDER BY 1, 2", [tenant]
        )
        assert left.fetchall() == [(tenant, "other"), (tenant, "shared"), (f"{tenant}-x", "meter")]


def test_bounds__reading_of_a_reset_clock__is_rejected_until_the_policy_takes_it(
    database: str, tenant: str, tmp_path: Path
) -> None:
    del database
    path = tmp_path / "y1970.csv"
    path.write_text("timestamp,value\n1970-01-01T00:00:00Z,0\n2026-11-29T14:00:00Z,5\n")
    options = Options(tenant=tenant, asset="meter")
    report = ingest_readings(path, options, reject_file=tmp_path / "rejected.csv")
    assert (report.inserted, report.rejected) == (1, 1)
    assert "ai-hub ingest bounds" in json.dumps(report.reasons)
    with connect() as connection:
        policies.save_bounds(connection, tenant, earliest=datetime(1960, 1, 1, tzinfo=UTC), ahead=None)
        assert policies.find_bounds(connection, f"{tenant}-x") == policies.BOUNDS
    report = ingest_readings(path, options, reject_file=tmp_path / "rejected.csv")
    assert (report.inserted, report.unchanged, report.rejected) == (1, 1, 0)

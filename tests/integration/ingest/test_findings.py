"""Findings of the stored series: over files, in any order, through a kill, and apart by tenant."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from ai_hub.db import connect
from ai_hub.ingest import assets, checks
from ai_hub.ingest.files import ingest_readings
from ai_hub.ingest.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from conftest import AiHub, CsvFile, EverythingOf, Rows

    from ai_hub.ingest.report import Report

START = datetime(2025, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
#: One asset a transaction, so that a kill can come between two.
PROGRAM = "from ai_hub.cli import main; from ai_hub.ingest import checks; checks.BATCH = 1; main()"
COMMAND = [sys.executable, "-c", PROGRAM]


def lines(hours: Iterable[int], *, stuck: Iterable[int] = ()) -> list[tuple[object, ...]]:
    return [((START + i * HOUR).isoformat(), 7.5 if i in stuck else 1 + i % 5) for i in hours]


def told(found: list[tuple[str, Any]]) -> list[tuple[str, int, int]]:
    """Kind, and first and last hour since the start."""
    return [(one.kind.value, (one.first - START) // HOUR, (one.last - START) // HOUR) for _, one in found]


def stored(rows: Rows, tenant: str) -> dict[tuple[str, int, int], bool]:
    found = rows(
        "SELECT kind, first_timestamp, last_timestamp, resolved_at IS NULL FROM data_findings"
        " WHERE tenant_id = %s",
        tenant,
    )
    return {
        (kind, (first - START) // HOUR, (last - START) // HOUR): is_open
        for kind, first, last, is_open in found
    }


def register(tenant: str, **values: object) -> None:
    with connect() as connection:
        assets.save(connection, assets.validate_asset(tenant_id=tenant, asset_id="m", **values))


def test_findings__gap_between_files_that_a_later_one_fills__is_resolved(
    tenant: str, csv_file: CsvFile, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "PAGE_ROWS", 17)
    options = Options(tenant=tenant, asset="m")

    def take(hours: Iterable[int]) -> Report:
        return ingest_readings(csv_file("m.csv", "timestamp,value", lines(hours)), options)

    assert take(range(1200)).findings == []
    report = take(range(1500, 1600))
    assert told(report.findings) == [("gap", 1199, 1500)]
    assert report.findings[0][1].detail == {"missing": 300, "interval_seconds": 3600}
    report = take(range(1200, 1210))
    assert (report.findings, report.resolved) == ([], [])
    assert stored(rows, tenant) == {("gap", 1209, 1500): True}
    report = take(range(1300, 1400))
    assert (report.findings, report.resolved) == ([], [])
    assert stored(rows, tenant) == {("gap", 1209, 1300): True, ("gap", 1399, 1500): True}
    assert told(take(range(1210, 1300)).resolved) == [("gap", 1209, 1300)]
    assert told(take(range(1400, 1500)).resolved) == [("gap", 1399, 1500)]
    assert stored(rows, tenant) == {("gap", 1209, 1300): False, ("gap", 1399, 1500): False}


def test_findings__stuck_run_that_grows_on_both_sides__stays_one(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    register(tenant, kind="electricity")
    options = Options(tenant=tenant, asset="m")
    stuck = range(100, 200)

    def take(hours: Iterable[int]) -> Report:
        return ingest_readings(csv_file("m.csv", "timestamp,value", lines(hours, stuck=stuck)), options)

    assert told(take(range(60, 110)).findings) == []
    assert told(take(range(110, 150)).findings) == [("stuck", 100, 149)]
    assert take(range(150, 300)).findings == []
    assert stored(rows, tenant) == {("stuck", 100, 199): True}
    stuck = range(40, 200)
    report = take(range(300))
    assert report.findings == []
    assert stored(rows, tenant) == {("stuck", 40, 199): True}
    stuck = range(0)
    assert told(take(range(300)).resolved) == [("stuck", 40, 199)]


def test_findings__same_asset_of_another_tenant__is_another_series(
    tenant: str, csv_file: CsvFile, rows: Rows
) -> None:
    other = f"{tenant}-1"
    ingest_readings(csv_file("a.csv", "timestamp,value", lines(range(50))), Options(tenant=tenant, asset="m"))
    report = ingest_readings(
        csv_file("b.csv", "timestamp,value", lines([*range(10), *range(20, 50)])),
        Options(tenant=other, asset="m"),
    )
    assert told(report.findings) == [("gap", 9, 20)]
    assert stored(rows, tenant) == {}


def test_findings__command_line__shows_lists_and_filters_them(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    register(tenant, timezone="Europe/Berlin")
    hours = [t for t in range(24 * 40) if t not in {30, 31, 50}]
    walls = pd.DatetimeIndex([START + i * HOUR for i in hours]).tz_convert("Europe/Berlin").tz_localize(None)
    file = csv_file(
        "m.csv", "timestamp,value", [(wall.isoformat(), 1 + i % 5) for i, wall in enumerate(walls)]
    )
    result = ai_hub("ingest", "readings", file, "--tenant", tenant, "--asset", "m")
    assert "Found for the first time: 2 gap, 1 skipped_hour" in result.stdout
    assert "gap m: 2 missing between 2025-03-02 05:00Z and 2025-03-02 08:00Z (one every 1 h)" in result.stdout
    assert "2025-03-30 02:00 to 03:00 Europe/Berlin never occurred: no rows claim it" in result.stdout
    listed = json.loads(ai_hub("ingest", "findings", "--tenant", tenant, "--json").stdout)
    assert [(item["asset_id"], item["kind"]) for item in listed] == [
        ("m", "gap"),
        ("m", "gap"),
        ("m", "skipped_hour"),
    ]
    still = json.loads(ai_hub("ingest", "findings", "--tenant", tenant, "--open", "--json").stdout)
    assert [item["kind"] for item in still] == ["gap", "gap"]
    assert "no findings" in ai_hub("ingest", "findings", "--tenant", tenant, "--asset", "x").stdout
    assert "skipped_hour" in ai_hub("ingest", "findings", "--tenant", tenant).stdout


@pytest.mark.long
def test_ingest__killed_before_or_in_the_check__ends_in_the_same_tables(
    tenant: str, tmp_path: Path, rows: Rows, everything_of: EverythingOf, ai_hub: AiHub
) -> None:
    """Killed once rows are stored, then once checks have begun; a tenant that never was is alike."""
    hours, meters = 1000, 40
    frame = pd.DataFrame(
        {
            "timestamp": pd.date_range("2021-01-01", periods=hours, freq="h", tz="UTC").repeat(meters),
            "asset": [f"m{i % meters}" for i in range(hours * meters)],
            "value": [float(i % 11) for i in range(hours * meters)],
        }
    )
    frame.loc[frame["asset"].eq("m2") & frame.index.isin(range(700 * meters, 750 * meters)), "value"] = 3.0
    frame = frame.drop(frame.index[500 * meters : 505 * meters])
    frame.loc[[30_000, 30_001], "value"] = float("nan")
    frame.to_parquet(tmp_path / "m.parquet")

    def arguments(owner: str) -> list[str]:
        file = str(tmp_path / "m.parquet")
        return [
            "ingest",
            "readings",
            file,
            "--tenant",
            owner,
            "--reject-file",
            str(tmp_path / "r.csv"),
            "--json",
        ]

    signs = (
        "SELECT count(*) FROM timeseries_data WHERE tenant_id = %s",
        "SELECT count(*) FROM data_findings WHERE tenant_id = %s",
    )
    for sign in signs:
        with subprocess.Popen([*COMMAND, *arguments(tenant)], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 100
            while rows(sign, tenant)[0][0] == 0 and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    assert rows("SELECT FROM data_checks_due WHERE tenant_id = %s", tenant), "the check had finished already"
    result = json.loads(ai_hub(*arguments(tenant)).stdout)
    whole = json.loads(ai_hub(*arguments(f"{tenant}-whole")).stdout)
    assert result["inserted"] + result["unchanged"] == whole["inserted"] == len(frame) - 2
    for query in (
        'SELECT asset_id, "timestamp", value FROM timeseries_data WHERE tenant_id = %s ORDER BY 1, 2',
        "SELECT asset_id, first_timestamp, detail FROM data_findings WHERE tenant_id = %s ORDER BY 1, 2",
        "SELECT file_name, line, reason, cells::text FROM quarantined_rows WHERE tenant_id = %s ORDER BY 2",
        "SELECT asset_id FROM data_checks_due WHERE tenant_id = %s",
    ):
        assert rows(query, tenant) == rows(query, f"{tenant}-whole")
    assert len(whole["findings"]) == meters + 1 + 2
    before = everything_of(tenant)
    assert json.loads(ai_hub(*arguments(tenant)).stdout)["findings"] == []
    assert everything_of(tenant) == before

"""`ai-hub ingest` and `ai-hub asset` as people run them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ai_hub.db import connect
from ai_hub.dev.demo.data import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import AiHub, CsvFile, Rows

COMMAND = [sys.executable, "-c", "from ai_hub.cli import main; main()"]


def test_ingest__report__names_what_happened_and_where_rejects_are(
    tenant: str, csv_file: CsvFile, ai_hub: AiHub
) -> None:
    file = csv_file("m.csv", "when;amount", []).parent / "m.csv"
    file.write_text("when;amount\n2025-03-01;1\n2025-03-01 01:00;x\n")
    arguments = ("ingest", "readings", file, "--tenant", tenant, "--asset", "m")
    unmapped = ai_hub(*arguments)
    assert unmapped.returncode == 2
    assert "when, amount" in unmapped.stderr
    assert "Traceback" not in unmapped.stderr
    mapping = ("--columns", "timestamp=when,value=amount")
    done = ai_hub(*arguments, *mapping)
    assert done.returncode == 0, done.stderr
    assert "2 rows: 1 inserted, 0 updated, 0 unchanged, 0 duplicate, 1 rejected" in done.stdout
    assert "rejected 1: value is not a number" in done.stdout
    assert "m.csv.rejected.csv" in done.stdout
    assert "Registered 1 new asset(s) in zone UTC: m." in done.stdout
    assert ai_hub(*arguments, *mapping, "--strict").returncode == 1
    report = json.loads(ai_hub(*arguments, *mapping, "--json").stdout)
    assert (report["unchanged"], report["rejected"]) == (1, 1)


def test_ingest__every_row_rejected__fails(tenant: str, csv_file: CsvFile, ai_hub: AiHub) -> None:
    file = csv_file("m.csv", "timestamp,value", [("x", 1)])
    assert ai_hub("ingest", "readings", file, "--tenant", tenant, "--asset", "m").returncode == 1


def test_asset__added_twice__keeps_what_is_not_given(tenant: str, ai_hub: AiHub) -> None:
    add = ("asset", "add", "--tenant", tenant, "--json")
    missing = ai_hub(*add, "meter", "--weather-from", "roof")
    assert missing.returncode == 2
    assert "no asset roof" in missing.stderr
    assert ai_hub(*add, "roof", "--kind", "weather", "--timezone", "Europe/London").returncode == 0
    first = ai_hub(
        *add, "meter", "--kind", "gas", "--unit", "M3", "--weather-from", "roof", "--latitude", "51.5"
    )
    assert first.returncode == 0, first.stderr
    assert ai_hub(*add, "meter", "--timezone", "Europe/London").returncode == 0
    listed = json.loads(ai_hub("asset", "list", "--tenant", tenant, "--json").stdout)
    assert [asset["asset_id"] for asset in listed] == ["meter", "roof"]
    meter = {name: listed[0][name] for name in ("kind", "unit", "timezone", "weather_asset_id", "latitude")}
    assert meter == {
        "kind": "gas",
        "unit": "m3",
        "timezone": "Europe/London",
        "weather_asset_id": "roof",
        "latitude": 51.5,
    }
    for wrong in (("--timezone", "Mars/Olympus"), ("--unit", "kWhh"), ("--latitude", "99")):
        refused = ai_hub(*add, "meter", *wrong)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr


def test_asset_list__rows_that_only_sql_writes__are_named_and_hide_no_others(
    tenant: str, ai_hub: AiHub
) -> None:
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, capacity)"
            " VALUES (%(t)s, 'good', 1), (%(t)s, 'blank ', 1), (%(t)s, 'negative', -1)",
            {"t": tenant},
        )
    result = ai_hub("asset", "list", "--tenant", tenant, "--json")
    assert result.returncode == 0
    assert [asset["asset_id"] for asset in json.loads(result.stdout)] == ["blank ", "good"]
    first, second = result.stderr.splitlines()
    assert "Asset 'blank ' is invalid" in first
    assert "Asset 'negative' is invalid" in second
    assert "capacity" in second
    removal = ("asset", "remove", "--tenant", tenant, "--reason", "misspelt", "--yes")
    for asset in ("blank ", "negative"):
        assert ai_hub(*removal, "--asset", asset).returncode == 0


# of a process that stores readings test_backfill.py kills another, in both of its parts
@pytest.mark.long
def test_ingest__killed_midway__is_completed_by_running_it_again(
    tenant: str, tmp_path: Path, rows: Rows, ai_hub: AiHub
) -> None:
    total = 150_000
    pd.DataFrame(
        {
            "timestamp": pd.date_range("2021-01-01", periods=total, freq="15min", tz="UTC"),
            "value": range(total),
        }
    ).to_parquet(tmp_path / "m.parquet")
    arguments = ("ingest", "readings", tmp_path / "m.parquet", "--tenant", tenant, "--asset", "m", "--json")
    count = "SELECT count(*) FROM timeseries_data WHERE tenant_id = %s"
    with subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while rows(count, tenant)[0][0] == 0:
            assert process.poll() is None, "finished before anything was seen"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    ((stored,),) = rows(count, tenant)
    assert 0 < stored < total
    done = ai_hub(*arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["inserted"] + report["unchanged"] == total
    assert report["unchanged"] >= stored
    assert rows("SELECT count(*), sum(value) FROM timeseries_data WHERE tenant_id = %s", tenant) == [
        (total, total * (total - 1) / 2)
    ]


def test_ingest__demo_series__are_taken_whole(tenant: str, tmp_path: Path, rows: Rows, ai_hub: AiHub) -> None:
    series = [one for one in prepare(tmp_path, weeks=8) if one.tenant == "uk-home" and one.asset != "gas"]
    for one in series:
        station = ("--temperature-unit", one.unit) if one.role == "weather" else ("--unit", one.unit)
        done = ai_hub(
            "ingest", one.role, one.file, "--tenant", tenant, "--asset", one.asset, *station, "--json"
        )
        assert json.loads(done.stdout)["inserted"] == one.rows, done.stderr
    newest = 'SELECT max("timestamp") FROM {} WHERE tenant_id = %s'
    assert rows(newest.format("timeseries_data"), tenant) == rows(newest.format("weather_features"), tenant)

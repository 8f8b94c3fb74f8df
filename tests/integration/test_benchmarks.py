"""`make bench SMALL=1` measures what the full run measures, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


def test_features__small__writes_numbers_table_and_plots_and_stops_its_servers(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "AI_HUB_BENCH_DSN"}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.features", "--small", "--output", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stderr
    records = {record["work"]: record for record in json.loads((tmp_path / "results.json").read_text())}
    assert set(records) == {"refresh", "bulk load, one month", "bulk load, one year"}
    refresh = records["refresh"]
    assert refresh["rows_computed"]["one new hour, year"] == refresh["sizes"]["assets"]
    assert refresh["rows_computed"]["nothing new, year"] == 0
    assert refresh["rows_computed"]["one corrected reading, 3 days old, month"] == 24
    assert (
        refresh["rows_computed"]["full rebuild, year"] > 12 * refresh["rows_computed"]["full rebuild, month"]
    )
    assert all(runs["median"] > 0 for record in records.values() for runs in record["seconds"].values())
    assert "year to month" in (tmp_path / "features.md").read_text()
    for plot in ("features-refresh.svg", "features-bulk.svg"):
        assert ET.parse(tmp_path / plot).getroot().tag.endswith("svg")  # noqa: S314  # our own file
    assert not list(temporary.iterdir()), "the servers' folders are deleted"


@pytest.mark.parametrize("benchmark", ["offline", "materialize", "online"])
def test_comparison__small__writes_numbers_table_and_plot(benchmark: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{benchmark}", "--small", "--output", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "results.json").read_text())
    assert {record["benchmark"] for record in records} == {benchmark}
    for record in records:
        assert record["seconds"].keys() >= {"ours", "floor"}
        assert all(runs["min"] > 0 for runs in record["seconds"].values())
        assert record["ratios"]["ours to floor"] > 0
    assert any("stock to ours" in record["ratios"] for record in records)
    text = (tmp_path / f"{benchmark}.md").read_text()
    assert all(record["work"] in text for record in records)
    root = ET.parse(tmp_path / f"{benchmark}.svg").getroot()  # noqa: S314  # our own file
    assert root.tag.endswith("svg")


def test_fleet__small__an_hour_turns_over_and_reads_come_from_redis(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fleet", "--small", "--tenants", "3", "--output", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["sizes"]["assets"] == 50
    assert record["found"]["an hour turns over in, s"] > 0
    assert record["found"]["reads meanwhile, degraded or failed"] == 0
    assert record["work"] in (tmp_path / "fleet.md").read_text()

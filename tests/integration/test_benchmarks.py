"""`make bench SMALL=1` measures what the full run measures, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

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

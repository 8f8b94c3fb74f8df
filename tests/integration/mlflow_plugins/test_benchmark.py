"""`make bench SMALL=1` measures of the registry what the full run measures, but of PostgreSQL nothing."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from benchmarks import registry

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Stack


@pytest.mark.long
def test_registry__small__writes_numbers_table_and_plot(
    servers: Stack, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "migrate", lambda path: shutil.copy(sqlite_template, path))
    s3 = servers.start("s3")
    registry.run(registry.SMALL, s3, tmp_path, "make bench SMALL=1")
    records = json.loads((tmp_path / "results.json").read_text())
    assert len(records) == 8
    for record in records:
        assert record["seconds"].keys() == {"stock", "ours"}
        assert all(0 < runs["min"] <= runs["median"] <= runs["p99"] for runs in record["seconds"].values())
        assert record["ratios"]["ours to stock"] > 0
    text = (tmp_path / "registry.md").read_text()
    assert all(record["work"] in text for record in records)
    root = ET.parse(tmp_path / "registry.svg").getroot()  # noqa: S314  # our own file
    assert root.tag.endswith("svg")

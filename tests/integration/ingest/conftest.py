"""Files to ingest and a look at what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ai_hub.database import connect

Rows: TypeAlias = Callable[..., list[tuple[Any, ...]]]
ReadingsOf: TypeAlias = Callable[[str], dict[tuple[str, datetime], tuple[float, str]]]
CsvFile: TypeAlias = Callable[[str, str, Sequence[Sequence[object]]], Path]


@pytest.fixture
def rows(database: str) -> Rows:
    """Run a query."""

    def run(query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with connect(database) as connection:
            return connection.execute(query, parameters).fetchall()

    return run


@pytest.fixture
def readings_of(rows: Rows) -> ReadingsOf:
    """Every reading of a tenant by asset and time."""

    def run(tenant: str) -> dict[tuple[str, datetime], tuple[float, str]]:
        found = rows(
            'SELECT asset_id, "timestamp", value, quality FROM timeseries_data WHERE tenant_id = %s', tenant
        )
        return {(asset, instant): (value, quality) for asset, instant, value, quality in found}

    return run


@pytest.fixture
def csv_file(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CsvFile:
    """Write a CSV file; the test runs in its folder, and there are tables."""
    del database
    monkeypatch.chdir(tmp_path)

    def write(name: str, header: str, lines: Sequence[Sequence[object]]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join([header, *(",".join(map(str, line)) for line in lines)]) + "\n")
        return path

    return write

"""Files to ingest and a look at what became of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

from ai_hub.cli import main
from ai_hub.db import connect

Rows: TypeAlias = Callable[..., list[tuple[Any, ...]]]
ReadingsOf: TypeAlias = Callable[[str], dict[tuple[str, datetime], tuple[float, str]]]
AiHub: TypeAlias = "Callable[..., Result]"
EverythingOf: TypeAlias = "Callable[[str], dict[str, list[tuple[Any, ...]]]]"
CsvFile: TypeAlias = Callable[[str, str, Sequence[Sequence[object]]], Path]


class Result(NamedTuple):
    """What a command said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ai_hub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: str) -> AiHub:
    """Run the command line in this process: starting one costs seconds."""
    del database

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["ai-hub", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def everything_of(rows: Rows) -> EverythingOf:
    """A digest of every row ingest may write for a tenant, whole and in any order, by table."""

    def run(tenant: str) -> dict[str, list[tuple[Any, ...]]]:
        tables = (
            *("timeseries_data", "weather_features", "assets", "feature_changes"),
            *("data_findings", "data_checks_due", "quarantined_rows"),
        )
        query = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t WHERE tenant_id = %s"
        return {table: rows(query.format(table), tenant) for table in tables}

    return run


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
        actual = rows(
            'SELECT asset_id, "timestamp", value, quality FROM timeseries_data WHERE tenant_id = %s', tenant
        )
        return {(asset, instant): (value, quality) for asset, instant, value, quality in actual}

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

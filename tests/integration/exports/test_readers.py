"""One export as a file and by month, read by everything that users read Parquet with."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from feast import FileSource
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig
from feast.repo_config import RepoConfig
from support.export_lab import selected

from ai_hub.exports.parquet import File, manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.export_lab import ExportLab

Rows = set[tuple[str, datetime, float | None]]
NAMES = ["asset_id", "event_timestamp", "lag_1h"]


def _rows(frame: pd.DataFrame) -> Rows:
    lags = frame["lag_1h"].astype(object).where(frame["lag_1h"].notna(), None)
    times = pd.to_datetime(frame["event_timestamp"], utc=True)
    return {(a, t.to_pydatetime(), v) for a, t, v in zip(frame["asset_id"], times, lags, strict=True)}


def _pandas(path: Path) -> Rows:
    return _rows(pd.read_parquet(path))


def _polars(path: Path) -> Rows:
    return _rows(pl.scan_parquet(path).select(NAMES).collect().to_pandas())


def _duckdb(path: Path) -> Rows:
    pattern = f"{path}/**/*.parquet" if path.is_dir() else str(path)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = "SELECT asset_id, event_timestamp, lag_1h FROM read_parquet(?)"
        found = connection.execute(query, [pattern]).to_arrow_table()
    return _rows(found.to_pandas())


def _pyarrow(path: Path) -> Rows:
    return _rows(ds.dataset(path, partitioning="hive").to_table(columns=NAMES).to_pandas())


def _feast(path: Path) -> Rows:
    source = FileSource(
        name="export",
        path=str(path),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    config = RepoConfig(
        project="readers",
        provider="local",
        registry=str(path.parent / "registry.db"),
        entity_key_serialization_version=3,
        offline_store=DaskOfflineStoreConfig(),
    )
    job = DaskOfflineStore.pull_all_from_table_or_query(
        config,
        source,
        join_key_columns=["tenant_id", "asset_id"],
        feature_name_columns=["lag_1h"],
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        start_date=datetime(2000, 1, 1, tzinfo=UTC),
        end_date=datetime(2100, 1, 1, tzinfo=UTC),
    )
    return _rows(job.to_df())


READERS: dict[str, Callable[[Path], Rows]] = {
    "pandas": _pandas,
    "polars": _polars,
    "duckdb": _duckdb,
    "pyarrow": _pyarrow,
    "feast": _feast,
}


@pytest.mark.filterwarnings("ignore")  # those of the readers
@pytest.mark.parametrize("partition_by", [None, "month"])
def test_every_reader__sees_the_rows(lab: ExportLab, partition_by: Any) -> None:
    # over the end of at least one month
    request = lab.request(hours=24 * 35, feature_set="forecast_advanced", partition_by=partition_by)
    job = lab.export(request)
    expected = {tuple(row[name] for name in NAMES) for row in selected(lab.settings, request)}
    for name, read in READERS.items():
        assert read(Path(str(job.storage_path))) == expected, name


def test_partitions__are_months_in_utc_and_have_one_checksum(lab: ExportLab) -> None:
    job = lab.export(lab.request(hours=24 * 35, partition_by="month", output_path="by-month"))
    folder = Path(str(job.storage_path))
    files = []
    for path in sorted(folder.rglob("*.parquet")):
        table = ds.dataset(path).to_table()
        months = {f"{time:%Y-%m}" for time in table["event_timestamp"].to_pylist()}
        assert {path.parent.name} == {f"year_month={month}" for month in months}
        assert path.name == "part-0.parquet"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(File(str(path.relative_to(folder)), len(table), path.stat().st_size, digest))
    assert len(files) > 1
    assert sum(each.rows for each in files) == job.row_count
    assert sum(each.size for each in files) == job.file_size_bytes
    assert hashlib.sha256(manifest(files)).hexdigest() == job.sha256
    assert folder == lab.folder / job.tenant_id / "by-month"
    assert all(name.startswith(f"{job.tenant_id}/by-month/") for name in lab.files())
    assert timedelta(0) < job.end_time - job.start_time

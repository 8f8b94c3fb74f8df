"""Exported rows, compared with a plain SELECT and with Feast's history."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.export_lab import selected
from support.properties import examples

from ai_hub.exports import parquet, reading
from ai_hub.features.store import get_service

if TYPE_CHECKING:
    from support.export_lab import ExportLab

SERVICES = ("forecast_basic", "forecast_advanced", "anomaly_detection")


@pytest.mark.parametrize("service", SERVICES)
def test_rows__are_those_of_the_view(lab: ExportLab, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SHORT_CHUNK_ROWS", 900)
    request = lab.request(hours=24 * 14, feature_set=service)
    job = lab.export(request)
    found = lab.table(job).to_pylist()
    expected = selected(lab.settings, request)
    assert len(found) == len(expected) == job.row_count
    assert {row["asset_id"] for row in found} == {"1", "11", "fresh"}
    for row, want in zip(found, expected, strict=True):
        assert row == {name: want[name] for name in row}


def test_values__are_those_of_feasts_history(lab: ExportLab) -> None:
    job = lab.export(lab.request(hours=30, feature_set="forecast_advanced"))
    found = lab.table(job).to_pandas()
    asked = found[["tenant_id", "asset_id", "event_timestamp"]].sample(frac=1, random_state=7)
    service = get_service(lab.energy.store, "forecast_advanced")
    history = lab.energy.store.get_historical_features(asked, service).to_df()
    features = [name for name in found.columns if name != "created_timestamp"]
    keys = ["asset_id", "event_timestamp"]
    history = history[features].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(found[features], history, check_dtype=False, check_exact=True)


def test_file__says_what_it_is(lab: ExportLab) -> None:
    request = lab.request(hours=24 * 14, output_path="training/two-weeks.parquet")
    job = lab.export(request)
    path = Path(str(job.storage_path))
    assert path == lab.folder / request.tenant / "training" / "two-weeks.parquet"
    assert lab.files() == {f"{request.tenant}/training/two-weeks.parquet"}
    assert path.stat().st_size == job.file_size_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == job.sha256
    assert path.stat().st_mode & 0o007 == 0
    metadata = pq.read_metadata(path)
    assert metadata.metadata[b"ai_hub.export_id"].decode() == str(job.export_id)
    assert metadata.metadata[b"ai_hub.tenant_id"].decode() == request.tenant
    assert metadata.metadata[b"ai_hub.feature_service"] == b"forecast_basic"
    assert metadata.metadata[b"ai_hub.feature_service_version"].decode() == job.service_version
    assert metadata.metadata[b"ai_hub.start_time"].decode() == request.start.isoformat()
    assert metadata.row_group(0).column(3).compression == "ZSTD"
    assert job.progress == 1


def test_row_groups__hold_several_chunks_up_to_their_size(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHORT_CHUNK_ROWS", 100)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 250)
    job = lab.export(lab.request(hours=24 * 10))
    metadata = pq.read_metadata(job.storage_path)
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sum(sizes) == job.row_count
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {250}
    assert sizes[-1] <= 250


def test_window_without_rows__gives_a_file_without_rows(lab: ExportLab) -> None:
    long_ago = lab.energy.now - timedelta(days=3000)
    for partition_by in (None, "month"):
        request = lab.request(start=long_ago, end=long_ago + timedelta(days=3), partition_by=partition_by)
        job = lab.export(request)
        assert job.row_count == 0
        assert "lag_24h" in pq.read_table(job.storage_path).column_names


@settings(max_examples=examples(8))
@given(
    start=st.integers(0, 14 * 24 * 60),
    length=st.integers(1, 3 * 24 * 60),
    assets=st.sets(st.sampled_from(["1", "11", "fresh"]), min_size=1),
    by_month=st.booleans(),
    chunk=st.sampled_from([1, 7, 100_000]),
)
def test_any_window_and_assets__give_the_rows_of_the_view(
    lab: ExportLab, start: int, length: int, assets: set[str], by_month: bool, chunk: int
) -> None:
    first = lab.energy.now - timedelta(minutes=start)
    request = lab.request(
        start=first,
        end=first + timedelta(minutes=length),
        assets=tuple(assets),
        partition_by="month" if by_month else None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SHORT_CHUNK_ROWS", chunk)
        job = lab.export(request)
    found = pq.read_table(job.storage_path, partitioning=None).sort_by(
        [("asset_id", "ascending"), ("event_timestamp", "ascending")]
    )
    expected = selected(lab.settings, request)
    assert found["event_timestamp"].to_pylist() == [row["event_timestamp"] for row in expected]
    assert found["asset_id"].to_pylist() == [row["asset_id"] for row in expected]
    assert found["lag_1h"].to_pylist() == [row["lag_1h"] for row in expected]
    assert found["hour_of_day"].to_pylist() == [row["hour_of_day"] for row in expected]


def test_rows_of_another_tenant__cannot_be_read_even_without_a_condition(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = reading._conditions
    monkeypatch.setattr(reading, "_conditions", lambda *given: conditions(*given)[1:])
    job = lab.export(lab.request(hours=24))
    expected = selected(lab.settings, lab.request(hours=24))
    assert lab.table(job)["lag_1h"].to_pylist() == [row["lag_1h"] for row in expected]

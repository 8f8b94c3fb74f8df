"""Exports by the client: made, fetched and deleted, from a folder, from S3, and from an address of S3."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pyarrow.parquet as pq
import pytest
from support.export_worker import worker_of
from support.service_server import running_service

import ai_hub
from ai_hub.access import api_keys
from ai_hub.access.principal import Scope
from ai_hub.errors import AiHubError, ConflictError, NotFoundError
from ai_hub.servers import s3_client
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

    from ai_hub.api.schemas.exports import ExportSummary

WAYS = ("folder", "s3", "address")
PARTITIONS = (None, "month")
#: Each way with one of both in turn, and the others in `make test-long`.
EXPORTS = pytest.mark.parametrize(
    ("settings", "partition"),
    [
        pytest.param(way, partition, marks=[] if (row + column) % 2 else pytest.mark.long)
        for row, way in enumerate(WAYS)
        for column, partition in enumerate(PARTITIONS)
    ],
    indirect=["settings"],
)


@pytest.fixture(scope="module", params=WAYS)
def settings(
    energy: Energy, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    del energy
    folder = str(tmp_path_factory.mktemp("exports"))
    return Settings(
        export_storage_path=folder if request.param == "folder" else f"s3://client-{uuid4().hex[:8]}/exports",
        export_download_redirect=request.param == "address",
    )


@pytest.fixture(scope="module")
def access(settings: Settings, energy: Energy) -> Iterator[dict[str, Any]]:
    """Arguments of a client."""
    _, key = api_keys.create(f"exports-{uuid4().hex[:8]}", [energy.main], list(Scope), created_by="test")
    with running_service(settings, ServiceSettings(auth="required")) as url:
        yield {"url": url, "api_key": str(key), "tenant": energy.main, "timeout_s": 60}


@pytest.fixture
def client(access: dict[str, Any]) -> Iterator[ai_hub.Client]:
    with ai_hub.Client(**access) as client:
        yield client


def change(job: ExportSummary) -> int:
    """Change a byte of the last file; the number of files."""
    place = str(job.storage_path)
    if not place.startswith("s3://"):
        files = sorted(Path(place).rglob("*.parquet")) or [Path(place)]
        files[-1].write_bytes(changed(files[-1].read_bytes()))
        return len(files)
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    store = s3_client(Settings())
    objects = store.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    keys = sorted(each["Key"] for each in objects if not each["Key"].endswith(".json"))
    answer = store.get_object(Bucket=bucket, Key=keys[-1])
    content = changed(answer["Body"].read())
    store.put_object(Bucket=bucket, Key=keys[-1], Body=content, Metadata=answer["Metadata"])
    return len(keys)


def changed(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def made(client: ai_hub.Client, settings: Settings, energy: Energy, partition: str | None) -> ExportSummary:
    job = client.export(
        "forecast_basic",
        energy.now - timedelta(days=40),
        energy.now,
        output_path=f"{uuid4().hex}.parquet",
        partition_by=partition,
        wait=False,
    )
    with pytest.raises(ConflictError):
        client.download(job, Path("never"))
    with pytest.raises(ConflictError):
        client.delete_export(job)
    worker_of(settings).run(once=True)
    (done,) = [each for each in client.exports() if each.export_id == job.export_id]
    assert done.status == "completed", done
    return done


@EXPORTS
def test_export__fetched_whole_then_deleted(
    access: dict[str, Any],
    client: ai_hub.Client,
    settings: Settings,
    energy: Energy,
    tmp_path: Path,
    partition: str | None,
) -> None:
    job = made(client, settings, energy, partition)
    to = tmp_path / "new folder" / "rows ü.parquet"
    fetched = client.download(job, to)
    assert fetched == [to] if partition is None else len(fetched) >= 2
    assert sorted(path for path in to.parent.rglob("*") if path.is_file()) == sorted(fetched)
    assert sum(path.stat().st_size for path in fetched) == job.file_size_bytes
    read = pq.read_table(to)
    assert read.num_rows == job.row_count
    assert set(read["tenant_id"].to_pylist()) == {energy.main}

    async def again() -> list[Path]:
        async with ai_hub.AsyncClient(**access) as other:
            return await other.download(job.export_id, tmp_path / "again")

    copies = asyncio.run(again())
    assert [path.read_bytes() for path in copies] == [path.read_bytes() for path in fetched]

    client.delete_export(job)
    assert job.export_id not in {each.export_id for each in client.exports()}
    for gone in (lambda: client.download(job, tmp_path / "gone"), lambda: client.delete_export(job)):
        with pytest.raises(NotFoundError):
            gone()
    assert not (tmp_path / "gone").exists()
    if settings.export_storage_path.startswith("/"):
        assert not Path(str(job.storage_path)).exists()


@EXPORTS
def test_export__changed_where_it_is_stored__is_not_taken(
    client: ai_hub.Client, settings: Settings, energy: Energy, tmp_path: Path, partition: str | None
) -> None:
    job = made(client, settings, energy, partition)
    count = change(job)
    with pytest.raises(AiHubError, match="was not received in full"):
        client.download(job, tmp_path / "to")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == count - 1
    client.delete_export(job)


def test_download__by_address__is_the_stores_and_has_no_key(
    access: dict[str, Any], client: ai_hub.Client, settings: Settings, energy: Energy
) -> None:
    job = made(client, settings, energy, None)
    answer = httpx.get(
        f"{access['url']}/ai/features/exports/{job.export_id}/download",
        params={"tenant_id": energy.main},
        headers={"X-API-Key": access["api_key"]},
    )
    assert answer.status_code == (307 if settings.export_download_redirect else 200)
    if settings.export_download_redirect:
        store = Settings().require("minio_endpoint_url")
        assert answer.headers["location"].startswith(f"{store}/")
        assert answer.headers["cache-control"] == "no-store"
        assert access["api_key"] not in answer.headers["location"]
        # whoever has the address needs no more, for five minutes
        assert httpx.get(answer.headers["location"]).headers["content-length"] == str(job.file_size_bytes)
    client.delete_export(job)

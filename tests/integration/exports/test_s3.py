"""Exports into a bucket, also while the store fails."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from support.export_lab import ExportLab, selected
from support.s3_faults import faults, lost_completions, uploads_by_exact_key

from ai_hub.db.transactions import transaction
from ai_hub.errors import NotFoundError
from ai_hub.exports import files, s3, service
from ai_hub.exports.export import PathTakenError, RangeError, files_by_month
from ai_hub.jobs.queue import CANCELLED
from ai_hub.servers import s3_client
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from support.energy import Energy

    from ai_hub.exports.export import Request
    from ai_hub.jobs.queue import Job

BUCKET = "ml-models"


@pytest.fixture
def client(energy: Energy) -> S3Client:
    del energy
    return s3_client(Settings())


@pytest.fixture
def lab(
    energy: Energy, tmp_path: Path, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ExportLab]:
    monkeypatch.setattr(s3, "s3_client", lambda _settings: client)
    settings = Settings(export_storage_path=f"s3://{BUCKET}/feature-exports/{tmp_path.name}")
    found = ExportLab(energy, settings, tmp_path)
    yield found
    found.forget()


def _keys(client: S3Client, lab: ExportLab) -> list[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"feature-exports/{lab.folder.name}/")
    return [
        each["Key"].removeprefix(f"feature-exports/{lab.folder.name}/") for each in found.get("Contents", [])
    ]


def _uploads(client: S3Client, lab: ExportLab) -> list[Any]:
    found = client.list_multipart_uploads(Bucket=BUCKET)
    return [each for each in found.get("Uploads", []) if f"feature-exports/{lab.folder.name}/" in each["Key"]]


def _listings(request: Request) -> int:
    """How often uploads are listed before the work: for each month and the manifest."""
    return len(files_by_month(request.start, request.end)) + 1


def _target(lab: ExportLab, job: Job) -> s3.S3Target:
    target = lab.task.attempt(job).target
    assert isinstance(target, s3.S3Target)
    return target


def _body(client: S3Client, place: str) -> bytes:
    return client.get_object(Bucket=BUCKET, Key=place.removeprefix(f"s3://{BUCKET}/"))["Body"].read()


def test_object__appears_only_when_it_is_complete(lab: ExportLab, client: S3Client) -> None:
    request = lab.request(output_path="a.parquet")
    before: list[list[str]] = []
    job = lab.work(lab.submit(request), lambda _done, _total: before.append(_keys(client, lab)))
    assert job.status == "completed", job.error
    assert before == [[]]
    assert _keys(client, lab) == [f"{request.tenant}/a.parquet"]
    body = _body(client, str(job.storage_path))
    assert (len(body), hashlib.sha256(body).hexdigest()) == (job.file_size_bytes, job.sha256)
    assert pq.read_table(io.BytesIO(body)).num_rows == len(selected(lab.settings, request)) == job.row_count
    assert _uploads(client, lab) == []


def test_partitions__end_with_a_manifest(lab: ExportLab, client: S3Client) -> None:
    request = lab.request(hours=24 * 35, partition_by="month", output_path="by-month")
    job = lab.export(request)
    manifest = _body(client, f"{job.storage_path}.manifest.json")
    assert hashlib.sha256(manifest).hexdigest() == job.sha256
    files = json.loads(manifest)["files"]
    for each in files:
        body = _body(client, f"{job.storage_path}/{each['path']}")
        assert hashlib.sha256(body).hexdigest() == each["sha256"]
    names = {f"{request.tenant}/by-month/{each['path']}" for each in files}
    assert set(_keys(client, lab)) == {*names, f"{request.tenant}/by-month.manifest.json"}


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_store_that_goes_away_midway__gets_the_whole_object_later(
    lab: ExportLab, client: S3Client, operation: str
) -> None:
    request = lab.request(hours=24 * 35, partition_by="month", output_path="by-month")
    job = lab.submit(request)
    # the second month finds it away, and so does the cleaning up
    with (
        faults(client, operation, after=1),
        faults(client, "ListMultipartUploads", after=_listings(request)),
    ):
        found = lab.work(job)
    assert (found.status, found.attempts) == ("pending", 1)
    assert lab.acquire(job) is None  # not at once
    lab.change(job, "next_at = now()")
    done = lab.work(job)
    assert (done.status, done.attempts) == ("completed", 2)
    assert _uploads(client, lab) == []
    assert not [name for name in _keys(client, lab) if "by-month" not in name]


@pytest.mark.parametrize("partition_by", [None, "month"])
def test_late_clean_up__spares_the_objects_of_a_later_attempt(
    lab: ExportLab, client: S3Client, partition_by: str | None
) -> None:
    path = "months" if partition_by else "once.parquet"
    job = lab.submit(lab.request(output_path=path, partition_by=partition_by))
    first = lab.acquire(job, "first")
    assert first is not None
    late = _target(lab, first)
    lab.change(job, "lease_until = now() - interval '1 second'")
    assert lab.work(job).status == "completed"
    before = _keys(client, lab)
    late.clean()
    assert _keys(client, lab) == before
    assert before


@pytest.mark.parametrize("partition_by", [None, "month"])
def test_completed_with_the_answer_lost__is_completed(
    lab: ExportLab, client: S3Client, partition_by: str | None
) -> None:
    path = "months" if partition_by else "once.parquet"
    with lost_completions(client):
        job = lab.work(lab.submit(lab.request(output_path=path, partition_by=partition_by)))
    assert (job.status, job.attempts) == ("completed", 1), job.error
    assert _keys(client, lab)


def test_sleeper_on_minio__cannot_publish_its_months(lab: ExportLab, client: S3Client) -> None:
    request = lab.request(hours=24 * 35, partition_by="month", output_path="by-month")
    job = lab.submit(request)
    first = lab.acquire(job, "first")
    assert first is not None
    asleep = _target(lab, first)
    for path in files_by_month(request.start, request.end):
        with asleep.create(path) as sink:
            sink.write(memoryview(b"stale"))
    lab.change(job, "lease_until = now() - interval '1 second'")
    second = lab.acquire(job, "second")
    assert second is not None
    with uploads_by_exact_key(client):
        _target(lab, second).clean()
    assert _uploads(client, lab) == []
    with pytest.raises(ClientError, match="NoSuchUpload"):
        asleep.publish(b"{}")


def test_attempt_that_breaks_off__aborts_its_uploads_unlisted(lab: ExportLab, client: S3Client) -> None:
    def breaks_off(done: int, total: int) -> None:
        if done == total:
            raise ValueError

    request = lab.request(hours=24 * 35, partition_by="month", output_path="by-month")
    job = lab.submit(request)
    with faults(client, "ListMultipartUploads", after=_listings(request)):
        assert lab.work(job, breaks_off).status == "failed"
    assert _uploads(client, lab) == []


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_store_away_at_the_end__is_cleaned_when_it_is_back(
    lab: ExportLab, client: S3Client, end: str
) -> None:
    request = lab.request(hours=24 * 35, partition_by="month", output_path="by-month")
    job = lab.submit(request)
    if end == "fails":
        lab.change(job, "attempts = 2")
    # one month is published, the other an open upload
    with (
        faults(client, "CompleteMultipartUpload", after=1),
        faults(client, "ListMultipartUploads", after=_listings(request)),
        faults(client, "AbortMultipartUpload"),
    ):
        found = lab.work(job)
    if end == "fails":
        assert found.status == "failed"
    else:
        assert found.status == "pending"
        assert service.cancel(lab.settings, job.tenant_id, job.export_id).error == CANCELLED
    assert _keys(client, lab)
    assert _uploads(client, lab)
    with faults(client, "ListMultipartUploads"):
        lab.run_once()
    assert _keys(client, lab)
    # a new job that has the path now keeps its uploads
    lab.change(job, "clean_after = now()")
    again = lab.submit(request)
    lab.worker.remove_orphans()
    assert _keys(client, lab)
    service.cancel(lab.settings, again.tenant_id, again.export_id)
    lab.run_once()
    assert _keys(client, lab) == []
    assert _uploads(client, lab) == []
    with transaction(lab.settings) as connection:
        row = connection.execute("SELECT clean_after FROM jobs WHERE job_id = %s", [job.export_id]).fetchone()
    assert row == (None,)


def test_store_that_stays_away__fails_the_job_after_three_attempts(lab: ExportLab, client: S3Client) -> None:
    job = lab.submit(lab.request())
    with faults(client, "CreateMultipartUpload"):
        for _ in range(3):
            lab.change(job, "next_at = now()")
            found = lab.work(job)
    assert (found.status, found.error) == ("failed", "The S3 store does not answer: EndpointConnectionError.")
    assert EndpointConnectionError.__name__ in str(found.error)


@pytest.mark.parametrize("partition_by", [None, "month"])
def test_path_of_a_completed_job__is_free_when_its_objects_are_gone(
    lab: ExportLab, client: S3Client, partition_by: str | None
) -> None:
    path = "months" if partition_by else "again.parquet"
    request = lab.request(output_path=path, partition_by=partition_by)
    lab.export(request)
    keys = _keys(client, lab)
    for key in keys:
        with pytest.raises(PathTakenError):
            lab.submit(request)
        client.delete_object(Bucket=BUCKET, Key=f"feature-exports/{lab.folder.name}/{key}")
    lab.export(request)
    assert _keys(client, lab) == keys
    with faults(client, "HeadObject"), pytest.raises(PathTakenError):
        lab.submit(request)


def test_object_of_somebody_else__stays(lab: ExportLab, client: S3Client) -> None:
    key = f"feature-exports/{lab.folder.name}/{lab.energy.main}/mine.parquet"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"precious")
    job = lab.work(lab.submit(lab.request(output_path="mine.parquet")))
    assert job.status == "failed"
    assert "is taken by something that is no export" in str(job.error)
    assert _body(client, key) == b"precious"
    assert _uploads(client, lab) == []


def test_path_with_characters_of_a_url__is_taken_by_the_completed_export(lab: ExportLab) -> None:
    for path in ("a#1.parquet", "b?c=d.parquet", "50%20.parquet"):
        job = lab.export(lab.request(hours=4, output_path=path))
        with pytest.raises(PathTakenError, match=str(job.export_id)):
            lab.submit(lab.request(hours=5, output_path=path))


def test_bucket_that_is_missing__is_made(
    energy: Energy, tmp_path: Path, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "s3_client", lambda _settings: client)
    bucket = f"exports-{uuid4()}"
    lab = ExportLab(energy, Settings(export_storage_path=f"s3://{bucket}/x"), tmp_path)
    job = lab.export(lab.request(hours=4))
    assert str(job.storage_path).startswith(f"s3://{bucket}/x/{energy.main}/")
    files.delete(lab.settings, job.tenant_id, job.export_id)
    client.delete_bucket(Bucket=bucket)


@pytest.mark.parametrize("partitioned", [False, True])
def test_files__listed_sent_and_deleted(lab: ExportLab, client: S3Client, partitioned: bool) -> None:
    options: dict[str, Any] = {"partition_by": "month"} if partitioned else {}
    path = "some/months" if partitioned else "some/one.parquet"
    job = lab.export(lab.request(hours=40 * 24, output_path=path, **options))
    listed = files.list_files(lab.settings, job)
    assert len(listed) > 1 if partitioned else len(listed) == 1
    assert sum(each.size for each in listed) == job.file_size_bytes
    for each in listed:
        content = files.open_file(lab.settings, job, each.path, None).answer["Body"].read()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (each.size, each.sha256)
        part = files.open_file(lab.settings, job, each.path, "bytes=3-9").answer
        assert (part["Body"].read(), part["ContentRange"]) == (content[3:10], f"bytes 3-9/{each.size}")
        with pytest.raises(RangeError):
            files.open_file(lab.settings, job, each.path, f"bytes={each.size}-")
        redirecting = lab.settings.model_copy(update={"export_download_redirect": True})
        url = files.open_file(redirecting, job, each.path, None).url
        assert httpx.get(str(url)).content == content
    with pytest.raises(NotFoundError):
        files.open_file(lab.settings, job, "year_month=1999-01/part-0.parquet", None)
    _, removed = files.delete(lab.settings, job.tenant_id, job.export_id)
    assert len(removed) == len(listed)
    assert _keys(client, lab) == []
    with pytest.raises(NotFoundError):
        lab.find(job)


def test_expiry__removes_the_files_of_old_exports_and_frees_their_path_and_key(
    lab: ExportLab, client: S3Client
) -> None:
    old, young = (
        lab.work(lab.submit(lab.request(hours=4, output_path=f"{name}.parquet"), key=f"{lab.folder}-{name}"))
        for name in ("old", "young")
    )
    lab.change(old, "completed_at = now() - INTERVAL '8 days'")
    files.expire(lab.settings)
    assert len(_keys(client, lab)) == 2
    files.expire(lab.settings.model_copy(update={"export_expiry_days": 7}))
    assert _keys(client, lab) == [f"{lab.energy.main}/young.parquet"]
    found = lab.find(old)
    assert (found.status, found.storage_path, found.expired_at is not None) == ("completed", None, True)
    assert found.message.startswith("Expired")
    assert lab.find(young).expired_at is None
    with pytest.raises(NotFoundError, match="Expired"):
        files.list_files(lab.settings, found)
    again = lab.submit(lab.request(hours=4, output_path="old.parquet"), key=f"{lab.folder}-old")
    assert again.export_id != old.export_id

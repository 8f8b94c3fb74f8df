"""How jobs end that do not go well: cancelled, killed, stopped, lost, refused, out of space."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from support.export_lab import ExportLab, selected

from ai_hub.cli import common
from ai_hub.cli.jobs import worker_command
from ai_hub.errors import ConflictError, NotFoundError, ServiceDownError
from ai_hub.exports import reading, service
from ai_hub.exports.export import PathTakenError
from ai_hub.jobs import queue, worker
from ai_hub.jobs.queue import CANCELLED
from ai_hub.settings import Settings
from feast_plugins.postgres import session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from multiprocessing.process import BaseProcess

    import pyarrow as pa
    from adbc_driver_manager.dbapi import Connection
    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig

    from ai_hub.exports.export import Export
    from ai_hub.exports.reading import Chunk


def _slow_worker(folder: str) -> None:
    """A worker that is slow enough to be met midway, and whose lease is short."""
    os.environ["EXPORT_STORAGE_PATH"] = folder
    common.settings.cache_clear()  # it may know the folder of an earlier call
    queue.LEASE_S = 3.0
    reading.SHORT_CHUNK_ROWS = 1
    read = reading.Reader.read

    def slowly(reader: reading.Reader, chunk: Chunk) -> pa.Table:
        time.sleep(0.3)
        return read(reader, chunk)

    reading.Reader.read = slowly
    worker_command(once=False, while_stdin_open=False)


@pytest.fixture
def slow_job(lab: ExportLab) -> Iterator[tuple[Export, BaseProcess]]:
    """A job, and the process that is in the middle of it."""
    job = lab.submit(lab.request(hours=24 * 35, partition_by="month", output_path="slow"))
    # forked: a fresh interpreter would import for seconds
    process = multiprocessing.get_context("fork").Process(target=_slow_worker, args=(str(lab.folder),))
    process.start()
    try:
        deadline = time.monotonic() + 120
        while not any(".partial/" in name for name in lab.files()):
            assert process.exitcode is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield job, process
    finally:
        process.kill()
        process.join()
        process.close()


def test_killed_worker__another_acquires_the_job_and_removes_its_orphans(
    lab: ExportLab, slow_job: tuple[Export, BaseProcess]
) -> None:
    job, process = slow_job
    process.kill()
    process.join()
    assert lab.acquire(job) is None
    assert lab.find(job).status == "running"
    assert any(".partial/" in name for name in lab.files())
    deadline = time.monotonic() + 10
    while (acquired := lab.acquire(job)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert acquired.attempts == 2
    done = lab.run(acquired)
    assert done.status == "completed"
    assert done.row_count == len(selected(lab.settings, job.request))
    assert all(name.startswith(f"{job.tenant_id}/slow/year_month=") for name in lab.files())


def test_terminated_worker__requeues_the_job_at_once(
    lab: ExportLab, slow_job: tuple[Export, BaseProcess]
) -> None:
    job, process = slow_job
    process.terminate()
    process.join(30)
    assert process.exitcode == 0
    found = lab.find(job)
    assert (found.status, found.attempts, found.worker) == ("pending", 0, None)
    assert lab.files() == set()
    assert lab.work(job).status == "completed"


def test_cancelled_while_running__leaves_nothing(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    seen: list[Export] = []

    def cancel(done: int, total: int) -> None:
        del done, total
        seen.append(service.cancel(lab.settings, job.tenant_id, job.export_id))

    done = lab.work(job, cancel)
    assert seen[0].status == "running"
    assert seen[0].message == "It is being cancelled."
    assert (done.status, done.error) == ("failed", CANCELLED)
    assert lab.files() == set()
    # cancelled is cancelled, and its path is free again
    assert service.cancel(lab.settings, job.tenant_id, job.export_id).error == CANCELLED
    assert lab.export(lab.request()).export_id != job.export_id


def test_cancelled_after_it_was_published__leaves_nothing(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = lab.submit(lab.request())
    complete = queue.complete

    def cancelled_before(*given: object) -> bool:
        assert len(lab.files()) == 1
        service.cancel(lab.settings, job.tenant_id, job.export_id)
        return complete(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(queue, "complete", cancelled_before)
    assert lab.work(job).error == CANCELLED
    assert lab.files() == set()


def test_completed_job__cannot_be_cancelled(lab: ExportLab) -> None:
    job = lab.export(lab.request())
    with pytest.raises(ConflictError, match="has ended already: completed"):
        service.cancel(lab.settings, job.tenant_id, job.export_id)
    assert len(lab.files()) == 1


def test_worker_that_lost_its_job__touches_nothing_of_the_next_attempt(lab: ExportLab) -> None:
    job = lab.submit(lab.request(output_path="once.parquet"))
    first = lab.acquire(job, "first")
    assert first is not None
    ends: list[Export] = []

    def overtaken(done: int, total: int) -> None:
        if done < total or ends:
            return
        lab.change(job, "lease_until = now() - interval '1 second'")
        second = lab.acquire(job, "second")
        assert second is not None
        ends.append(ExportLab(lab.energy, lab.settings, lab.folder).run(second))

    done = lab.run(first, overtaken)
    assert done == ends[0]
    assert (done.status, done.attempts) == ("completed", 2)
    assert lab.files() == {f"{job.tenant_id}/once.parquet"}
    assert lab.table(done).num_rows == done.row_count


def test_database_away_right_before_publishing__is_waited_for(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, failures = queue.renew, [ServiceDownError("TimescaleDB", "db:5432", "restarting")]

    def blip(*given: object) -> bool | None:
        if threading.current_thread().name != "lease" and failures:
            raise failures.pop()
        return renew(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(queue, "renew", blip)
    job = lab.work(lab.submit(lab.request()))
    assert (job.status, job.attempts, failures) == ("completed", 1, [])


def test_every_statement__has_a_time_limit(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, limits = session.connect, []

    def connected(config: PostgreSQLConfig, timeout_s: float | None) -> AbstractContextManager[Connection]:
        limits.append(timeout_s)
        return connect(config, timeout_s)

    monkeypatch.setattr(session, "connect", connected)
    lab.export(lab.request())
    assert limits
    assert set(limits) == {reading.LONGEST_STATEMENT_S}


def test_repetition_with_its_key__is_answered_without_the_feature_set(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = str(uuid4())
    job = lab.submit(lab.request(), key)
    monkeypatch.setattr(service, "find_service", lambda *_: None)
    assert lab.submit(lab.request(), key).export_id == job.export_id
    with pytest.raises(NotFoundError):
        lab.submit(lab.request(), str(uuid4()))


def test_job_that_cannot_be_renewed__is_requeued(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LEASE_S", 0.3)
    monkeypatch.setattr(worker, "_RENEW_S", 0.1)
    renew = queue.renew

    def refused(*given: object) -> bool | None:
        if threading.current_thread().name == "lease":
            raise psycopg.errors.ReadOnlySqlTransaction
        return renew(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(queue, "renew", refused)
    job = lab.work(lab.submit(lab.request()), lambda _done, _total: time.sleep(1))
    assert (job.status, job.attempts) == ("pending", 1)
    assert lab.files() == set()


def test_job_whose_workers_die_three_times__fails_and_says_so(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    lab.change(job, "status = 'running', holder = 'dead', attempts = 3, lease_until = now() - interval '1 s'")
    done = lab.work(job)
    assert done.status == "failed"
    assert done.error == "Its workers ended 3 times before it was done; their logs may say why."


def test_published_but_not_recorded__is_done_again(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    job = lab.submit(lab.request(output_path="again.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(queue, "complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lab.work(job)
    assert len(lab.files()) == 1
    lab.change(job, "lease_until = now() - interval '1 second'")
    done = lab.work(job)
    assert (done.status, done.attempts) == ("completed", 2)
    assert lab.table(done).num_rows == done.row_count


def test_something_else_at_the_path__stays_and_the_job_fails(lab: ExportLab) -> None:
    place = lab.folder / lab.energy.main / "mine.parquet"
    place.parent.mkdir()
    place.write_text("precious")
    job = lab.work(lab.submit(lab.request(output_path="mine.parquet")))
    assert job.status == "failed"
    assert "is taken by something that is no export" in str(job.error)
    assert place.read_text() == "precious"
    assert lab.files() == {f"{lab.energy.main}/mine.parquet"}


@pytest.mark.parametrize("partition_by", [None, "month"])
def test_path_of_a_completed_job__is_free_when_its_file_is_gone(
    lab: ExportLab, partition_by: str | None
) -> None:
    path = "months" if partition_by else "again.parquet"
    request = lab.request(output_path=path, partition_by=partition_by)
    first = lab.export(request)
    with pytest.raises(PathTakenError, match=str(first.export_id)):
        lab.submit(request)
    place = Path(str(first.storage_path))
    if partition_by:
        shutil.rmtree(place)
    else:
        place.unlink()
    second = lab.export(request)
    assert (second.storage_path, second.export_id) != (first.storage_path, first.export_id)
    with pytest.raises(PathTakenError):
        lab.submit(request)


def test_folder_named_like_a_feature_set__is_in_nobodys_way(lab: ExportLab) -> None:
    named = lab.request(output_path="forecast_basic", partition_by="month")
    for request in (lab.request(), named, lab.request()):
        lab.export(request)


def test_link_made_after_submission__is_not_followed(lab: ExportLab, tmp_path: Path) -> None:
    job = lab.submit(lab.request(output_path="sub/file.parquet"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (lab.folder / lab.energy.main).mkdir()
    (lab.folder / lab.energy.main / "sub").symlink_to(outside)
    done = lab.work(job)
    assert done.status == "failed"
    assert "leads out of the tenant's folder" in str(done.error)
    assert not any(outside.iterdir())


def test_feature_service_gone_meanwhile__fails_and_says_so(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    lab.change(job, "arguments = arguments || jsonb_build_object('feature_set', 'gone')")
    done = lab.work(job)
    assert (done.status, done.error) == ("failed", "There is no feature service 'gone'.")


def test_full_disk__fails_and_leaves_nothing(lab: ExportLab, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.fail(f"Only root can mount a small disk: {made.stderr.decode().strip()}", pytrace=False)
    try:
        full = ExportLab(lab.energy, Settings(export_storage_path=str(small)), small, submitted=lab.submitted)
        job = full.work(full.submit(full.request(hours=24 * 30)))
        assert (job.status, job.error) == ("failed", "No space is left where its files are stored.")
        assert full.files() == set()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_nothing_is_visible__before_it_is_complete(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_hub.exports.reading.SHORT_CHUNK_ROWS", 1)
    visible: set[str] = set()
    path = ""

    def look(done: int, total: int) -> None:
        del done, total
        visible.update(name for name in lab.files() if "/." not in name and f"/{path}" in name)

    for partition_by, path in ((None, "one.parquet"), ("month", "months")):
        request = lab.request(hours=24 * 35, partition_by=partition_by, output_path=path)
        assert lab.work(lab.submit(request), look).status == "completed"
        assert not visible


def test_jobs_of_many_tenants__take_turns(lab: ExportLab) -> None:
    many = [lab.submit(lab.request(hours=hours)) for hours in (3, 4, 5)]
    other = lab.submit(lab.request(hours=3, tenant=lab.energy.twin))
    ours = {job.export_id for job in (*many, other)}
    order = []
    while len(order) < len(ours):
        job = lab.worker.acquire()
        assert job is not None
        if job.job_id in ours:
            order.append(job.job_id)
        assert lab.run(job).is_finished
    assert order.index(other.export_id) < 2
    assert [each for each in order if each != other.export_id] == [job.export_id for job in many]
    assert lab.energy.now - timedelta(hours=3) == other.start_time


def test_retry__path_that_is_inside_another_export_by_now__is_refused(lab: ExportLab) -> None:
    job = lab.submit(lab.request(output_path="retried/file.parquet"))
    service.cancel(lab.settings, job.tenant_id, job.export_id)
    other = lab.export(lab.request(partition_by="month", output_path="retried"))
    with pytest.raises(PathTakenError, match=str(other.export_id)):
        service.retry(lab.settings, job.tenant_id, job.export_id)
    assert lab.find(job).status == "failed"


def test_retry__cancelled_export__is_done(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    service.cancel(lab.settings, job.tenant_id, job.export_id)
    assert service.retry(lab.settings, job.tenant_id, job.export_id).status == "pending"
    done = lab.work(job)
    assert done.status == "completed"
    with pytest.raises(ConflictError, match="completed"):
        service.retry(lab.settings, job.tenant_id, job.export_id)

"""A process that was asleep wakes up: nothing that it does then touches the files of a later attempt."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from support.export_lab import ExportLab

from ai_hub.exports.locations import LocalTarget
from ai_hub.jobs import queue, worker

if TYPE_CHECKING:
    from ai_hub.exports.export import Export
    from ai_hub.jobs.queue import Job

HOUR = timedelta(hours=1)


def _end(lab: ExportLab, job: Export) -> Export:
    """The next attempt takes the job over and completes it."""
    lab.change(job, "lease_until = now() - interval '1 second'")
    acquired = lab.acquire(job, "second")
    assert acquired is not None
    done = ExportLab(lab.energy, lab.settings, lab.folder).run(acquired)
    assert done.status == "completed", done.error
    return done


def _breaking(_done: int, _total: int) -> None:
    raise OSError("the stream broke off")


@pytest.mark.parametrize("partition_by", [None, "month"])
def test_late_clean_up__spares_the_file_of_a_later_attempt(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch, partition_by: str | None
) -> None:
    monkeypatch.setattr(worker, "_RENEW_S", 1000)  # asleep
    path = "months" if partition_by else "once.parquet"
    request = lab.request(output_path=path, partition_by=partition_by)
    job = lab.submit(request)
    # the two days may be of two months
    count = len({f"{day:%Y-%m}" for day in (request.start, request.end - HOUR)}) if partition_by else 1
    clean, cleanings, ends = LocalTarget.clean, [], []

    def late(target: LocalTarget) -> None:
        cleanings.append(target)
        # the first one comes before the work
        if len(cleanings) == 2:
            ends.append(_end(lab, job))
        clean(target)

    monkeypatch.setattr(LocalTarget, "clean", late)
    first = lab.acquire(job, "first")
    assert first is not None
    lab.task.on_chunk = _breaking
    assert lab.worker.run_job(first) == "lost"
    assert lab.find(job) == ends[0]
    assert len(lab.files()) == count
    # nor does the clean-up that comes before the work
    lab.task.attempt(first).clean()
    assert len(lab.files()) == count


def test_numbers__are_never_used_again(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    fences = []
    for _ in range(3):
        acquired = lab.acquire(job)
        assert acquired is not None
        assert acquired.attempts == 1
        fences.append(acquired.fence)
        assert queue.requeue(lab.settings, acquired, counted=False)
        # of no use to whoever has it no more
        assert not queue.requeue(lab.settings, acquired)
        assert not queue.fail(lab.settings, acquired, "late")
    assert fences == [1, 2, 3]


def test_job__is_kept_while_its_files_are_removed(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LEASE_S", 1.0)
    monkeypatch.setattr(worker, "_RENEW_S", 0.2)
    job = lab.submit(lab.request())
    taken: list[Job | None] = []

    cleanings: list[LocalTarget] = []

    def slow(target: LocalTarget) -> None:
        cleanings.append(target)
        if len(cleanings) == 2:
            time.sleep(2)
            taken.append(lab.acquire(job, "second"))

    monkeypatch.setattr(LocalTarget, "clean", slow)
    found = lab.work(job, _breaking)
    assert (found.status, taken) == ("pending", [None])

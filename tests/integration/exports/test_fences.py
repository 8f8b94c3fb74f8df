"""A process that was asleep wakes up: nothing that it does then touches the files of a later attempt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support.export_lab import ExportLab

from ai_hub.exports import claims, lease
from ai_hub.exports.local import LocalTarget
from ai_hub.exports.targets import target_of

if TYPE_CHECKING:
    from ai_hub.exports.jobs import Job


def _end(lab: ExportLab, job: Job) -> Job:
    """The next attempt takes the job over and completes it."""
    lab.change(job, "lease_until = now() - interval '1 second'")
    claimed = lab.claim(job, "second")
    assert claimed is not None
    done = ExportLab(lab.energy, lab.settings, lab.folder).make(claimed)
    assert done.status == "completed", done.error
    return done


def _breaking(_done: int, _total: int) -> None:
    raise OSError("the stream broke off")


@pytest.mark.parametrize("partition_by", [None, "month"])
def test_late_clean_up__spares_the_file_of_a_later_attempt(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch, partition_by: str | None
) -> None:
    monkeypatch.setattr(lease, "_RENEW_S", 1000)  # asleep
    path = "months" if partition_by else "once.parquet"
    job = lab.submit(lab.request(output_path=path, partition_by=partition_by))
    abandon, ends = LocalTarget.abandon, []

    def late(target: LocalTarget) -> None:
        if not ends:
            ends.append(_end(lab, job))
        abandon(target)

    monkeypatch.setattr(LocalTarget, "abandon", late)
    first = lab.claim(job, "first")
    assert first is not None
    lab.attempts.on_chunk = _breaking
    assert lab.attempts.make(first) == "lost"
    assert lab.find(job) == ends[0]
    assert len(lab.files()) == 1
    # nor does the clean-up that comes before the work
    target_of(lab.settings, first).clean()
    assert len(lab.files()) == 1


def test_numbers__are_never_used_again(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    fences = []
    for _ in range(3):
        claimed = lab.claim(job)
        assert claimed is not None
        assert claimed.attempts == 1
        fences.append(claimed.fence)
        assert claims.give_back(lab.settings, claimed, forgive=True)
        # of no use to whoever has it no more
        assert not claims.give_back(lab.settings, claimed)
        assert not claims.fail(lab.settings, claimed, "late")
    assert fences == [1, 2, 3]


def test_job__is_kept_while_its_files_are_removed(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 1.0)
    monkeypatch.setattr(lease, "_RENEW_S", 0.2)
    job = lab.submit(lab.request())
    taken: list[Job | None] = []

    def slow(_target: LocalTarget) -> None:
        time.sleep(2)
        taken.append(lab.claim(job, "second"))

    monkeypatch.setattr(LocalTarget, "abandon", slow)
    found = lab.work(job, _breaking)
    assert (found.status, taken) == ("pending", [None])

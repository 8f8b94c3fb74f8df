"""What a queue promises, whatever its jobs do. Exports test the rest: kills, sleepers, outages."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.db.transactions import transaction
from ai_hub.errors import ConflictError, NotFoundError, ServiceDownError
from ai_hub.jobs import queue, worker
from ai_hub.jobs.queue import CANCELLED
from ai_hub.jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import DoublingAttempt, Queue

    from ai_hub.jobs.queue import Job
    from ai_hub.jobs.worker import Lease
    from ai_hub.settings import Settings


def _raising(error: Exception) -> Callable[[Job, Lease], None]:
    def raises(job: Job, lease: Lease) -> None:
        del job, lease
        raise error

    return raises


def test_jobs_of_two_tenants__take_turns__first_in_first_out_within_one(jobs: Queue) -> None:
    many = [jobs.defer(jobs.one, number) for number in range(3)]
    few = [jobs.defer(jobs.two, number) for number in range(2)]
    jobs.worker.run(once=True)
    assert jobs.task.done == [many[0], few[0], many[1], few[1], many[2]]
    found = jobs.find(jobs.one, many[2])
    assert (found.status, found.result, found.attempts, found.fence) == ("completed", {"number": 4}, 1, 1)
    # before the first attempt, and not after one that completes
    assert jobs.task.cleaned == [(job, 1) for job in jobs.task.done]


def test_worker__leaves_jobs_of_other_kinds(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)
    jobs.change(job, "kind = kind || '-other'")
    jobs.worker.run(once=True)
    assert jobs.find(jobs.one, job).status == "pending"
    jobs.change(job, f"kind = '{jobs.kind}'")


def test_error_that_may_pass__is_tried_again_after_a_pause__then_fails(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)
    jobs.task.on_run = _raising(ServiceDownError("The store", "s3:9000", "refused"))
    for attempt in (1, 2):
        jobs.worker.run(once=True)
        found = jobs.find(jobs.one, job)
        assert (found.status, found.attempts, found.holder) == ("pending", attempt, None)
        assert jobs.worker.acquire(job) is None  # not at once
        jobs.change(job, "next_at = now()")
    jobs.worker.run(once=True)
    found = jobs.find(jobs.one, job)
    assert (found.status, found.attempts, found.fence) == ("failed", 3, 3)
    assert "The store at s3:9000" in str(found.error)
    # before and after each attempt
    assert jobs.task.cleaned == [(job, fence) for fence in (1, 1, 2, 2, 3, 3)]


def test_what_is_left_behind__is_removed_when_the_store_is_back(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)

    def away() -> None:
        if len(jobs.task.cleaned) in {2, 3}:
            raise OSError("away")

    jobs.task.on_run, jobs.task.on_clean = _raising(ValueError("wrong")), away
    jobs.worker.run_job(jobs.worker.acquire(job))  # type: ignore[arg-type]
    assert jobs.find(jobs.one, job).status == "failed"
    jobs.worker.remove_orphans()  # still away
    jobs.worker.remove_orphans()  # not due
    assert len(jobs.task.cleaned) == 3
    jobs.change(job, "clean_after = now()")
    jobs.worker.remove_orphans()
    jobs.change(job, "clean_after = clean_after - interval '1 hour'")
    jobs.worker.remove_orphans()
    assert len(jobs.task.cleaned) == 4


def test_what_earlier_attempts_left__is_removed__also_where_the_last_could_not_begin(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)
    begin = jobs.task.attempt

    def broken(job: Job) -> DoublingAttempt:
        del job
        raise ValueError("wrong")

    jobs.change(job, "fence = 1")
    jobs.task.attempt = broken  # type: ignore[method-assign]
    jobs.worker.run_job(jobs.worker.acquire(job))  # type: ignore[arg-type]
    assert jobs.find(jobs.one, job).status == "failed"
    jobs.task.attempt = begin  # type: ignore[method-assign]
    jobs.worker.remove_orphans()
    assert jobs.task.cleaned == [(job, 2)]


def test_cleaned__of_a_job_that_was_acquired_again__is_not_noted(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)
    jobs.change(job, "status = 'failed', completed_at = now(), clean_after = now()")
    orphaned = queue.take_orphaned(jobs.settings, [jobs.kind])
    assert orphaned is not None
    jobs.change(job, "fence = fence + 1, clean_after = now()")
    queue.note_cleaned(jobs.settings, orphaned)
    assert queue.take_orphaned(jobs.settings, [jobs.kind]) is not None


def test_cancelled_while_it_runs__ends_when_it_asks(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)

    def cancelled(_job: Job, _lease: Lease) -> None:
        with transaction(jobs.settings, jobs.one) as connection:
            assert queue.cancel(connection, jobs.one, job).message == "It is being cancelled."

    jobs.task.on_run = cancelled
    jobs.worker.run(once=True)
    found = jobs.find(jobs.one, job)
    assert (found.status, found.error, jobs.task.done) == ("failed", CANCELLED, [])


def test_what_cannot_be_undone__completes_a_job_that_would_fail(jobs: Queue) -> None:
    def done(job: Job, lease: Lease) -> None:
        jobs.task.results[job.job_id] = {"number": 7}
        with transaction(jobs.settings, jobs.one) as connection:
            queue.cancel(connection, jobs.one, job.job_id)
        lease.confirm()

    jobs.task.on_run = done
    cancelled = jobs.defer(jobs.one)
    with capture_logs() as logged:
        assert jobs.worker.run_job(jobs.worker.acquire(cancelled)) == "completed"  # type: ignore[arg-type]
    assert [(each["event"], each["job_id"], each["result"]) for each in logged] == [
        ("job_completed", str(cancelled), {"number": 7})
    ]
    # its last worker was killed when it was done
    killed = jobs.defer(jobs.one)
    jobs.task.results[killed] = {"number": 7}
    jobs.change(killed, "status = 'running', attempts = 3, lease_until = now()")
    assert jobs.worker.run_job(jobs.worker.acquire(killed)) == "completed"  # type: ignore[arg-type]
    for job in (cancelled, killed):
        found = jobs.find(jobs.one, job)
        assert (found.status, found.result, found.error) == ("completed", {"number": 7}, None)


def test_what_is_done_late__completes_a_job_that_has_failed(jobs: Queue) -> None:
    jobs.task.late_s = 60
    jobs.task.on_run = _raising(ConflictError("no"))
    late, never = jobs.defer(jobs.one), jobs.defer(jobs.one)
    for job in (late, never):
        jobs.worker.run_job(jobs.worker.acquire(job))  # type: ignore[arg-type]
    jobs.worker.remove_orphans()
    assert [jobs.find(jobs.one, job).status for job in (late, never)] == ["failed", "failed"]
    jobs.task.results[late] = {"number": 7}
    for job in (late, never):
        jobs.change(job, "completed_at = now() - INTERVAL '61 s', clean_after = now()")
    with capture_logs() as logged:
        jobs.worker.remove_orphans()
    assert [(each["event"], each["job_id"]) for each in logged] == [("job_completed", str(late))]
    found = jobs.find(jobs.one, late)
    assert (found.status, found.result, found.error) == ("completed", {"number": 7}, None)
    assert jobs.find(jobs.one, never).status == "failed"
    # and is not looked for for ever
    jobs.task.results[never] = {"number": 7}
    jobs.change(never, "completed_at = now() - INTERVAL '2 hours'")
    jobs.worker.remove_orphans()
    assert jobs.find(jobs.one, never).status == "failed"


def test_stop__releases_a_job_whose_worker_cannot_be_interrupted(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_RENEW_S", 0.05)
    monkeypatch.setattr(worker, "_GRACE_S", 0.2)
    job, outcomes = jobs.defer(jobs.one), []
    stop = threading.Event()
    stopped = Worker(jobs.settings, [jobs.task], stop)

    def fit(_: Job, lease: Lease) -> None:
        jobs.task.on_run = lambda _job, _lease: None
        stop.set()
        deadline = time.monotonic() + 30
        while (again := jobs.worker.acquire(job)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # the one that was stopped is no attempt
        assert (again.attempts, again.fence) == (1, 2)
        outcomes.append(jobs.worker.run_job(again))
        lease.check()

    jobs.task.on_run = fit
    outcomes.append(stopped.run_job(stopped.acquire(job)))  # type: ignore[arg-type]
    assert outcomes == ["completed", "requeued"]
    found = jobs.find(jobs.one, job)
    assert (found.status, jobs.task.done) == ("completed", [job])


def test_stop__while_the_database_is_away__ends_with_the_work(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_RENEW_S", 0.05)
    monkeypatch.setattr(worker, "_GRACE_S", 0.0)
    stop, tried, update = threading.Event(), threading.Event(), queue._update

    def away(settings: Settings, query: str, *given: Any, **values: Any) -> Any:
        if query == queue._REQUEUE and threading.current_thread() is not threading.main_thread():
            tried.set()
            raise ServiceDownError("TimescaleDB", "db:5432", "refused")
        return update(settings, query, *given, **values)

    def fit(_: Job, lease: Lease) -> None:
        stop.set()
        assert tried.wait(30)
        lease.check()

    monkeypatch.setattr(queue, "_update", away)
    jobs.task.on_run = fit
    job, stopped = jobs.defer(jobs.one), Worker(jobs.settings, [jobs.task], stop)
    began = time.monotonic()
    assert stopped.run_job(stopped.acquire(job)) == "requeued"  # type: ignore[arg-type]
    # a lease that tries for two minutes would hold up the worker so long
    assert time.monotonic() < began + 30
    assert jobs.find(jobs.one, job).status == "pending"


@pytest.mark.parametrize("tries", [1, 2])
def test_stop__while_the_database_stays_away__ends_after_one_try(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    stop, in_main = threading.Event(), []

    def away(_settings: Settings, query: str, *_given: Any, **_values: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            in_main.append(query)
            if len(in_main) == tries:
                stop.set()
        raise ServiceDownError("TimescaleDB", "db:5432", "refused")

    def fit(_job: Job, _lease: Lease) -> None:
        monkeypatch.setattr(queue, "_update", away)
        if tries == 1:
            stop.set()
        raise ServiceDownError("TimescaleDB", "db:5432", "refused")

    jobs.task.on_run = fit
    job, stopped = jobs.defer(jobs.one), Worker(jobs.settings, [jobs.task], stop)
    began = time.monotonic()
    stopped.run()
    assert time.monotonic() < began + 30
    assert in_main == [queue._RENEW] * tries
    # another worker has it when the lease has run out
    assert jobs.find(jobs.one, job).status == "running"


def test_lock__one_unfinished_job_has_it__of_each_tenant(jobs: Queue) -> None:
    first = jobs.defer(jobs.one, queueing_lock="model")
    jobs.defer(jobs.two, queueing_lock="model")
    with pytest.raises(psycopg.errors.UniqueViolation):
        jobs.defer(jobs.one, queueing_lock="model")
    jobs.task.on_run = _raising(ValueError("wrong"))
    jobs.worker.run(once=True)
    again = jobs.defer(jobs.one, queueing_lock="model")
    with (
        transaction(jobs.settings, jobs.one) as connection,
        pytest.raises(ConflictError, match="Another job"),
    ):
        queue.retry(connection, jobs.one, first)
    assert jobs.find(jobs.one, again).status == "pending"


def test_deferred__in_a_transaction_that_is_rolled_back__is_no_job(jobs: Queue) -> None:
    job = queue.NewJob(uuid4(), jobs.kind, jobs.one, {})
    with transaction(jobs.settings, jobs.one) as connection:
        queue.defer(connection, job)
        raise psycopg.Rollback
    with pytest.raises(NotFoundError):
        jobs.find(jobs.one, job.job_id)


def test_tenants__see_and_change_their_own_jobs_alone(jobs: Queue) -> None:
    job = jobs.defer(jobs.one)
    with transaction(jobs.settings, jobs.two) as connection:
        assert connection.execute("SELECT count(*) FROM jobs WHERE job_id = %s", [job]).fetchone() == (0,)
        # in the name of the other tenant, too
        for statement in (
            "UPDATE jobs SET status = 'failed' WHERE job_id = %s",
            "DELETE FROM jobs WHERE job_id = %s",
        ):
            assert connection.execute(statement, [job]).rowcount == 0
        for tenant in (jobs.one, jobs.two):
            with pytest.raises(NotFoundError):
                queue.cancel(connection, tenant, job)
            with pytest.raises(NotFoundError):
                queue.retry(connection, tenant, job)
        assert queue.newest(connection, kind=jobs.kind) == ([], 0)
    foreign = queue.NewJob(uuid4(), jobs.kind, jobs.one, {})
    with (
        pytest.raises(psycopg.errors.WithCheckOptionViolation),
        transaction(jobs.settings, jobs.two) as connection,
    ):
        queue.defer(connection, foreign)
    assert jobs.find(jobs.one, job).status == "pending"


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["jobs", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_commands__list_show_cancel_and_retry(jobs: Queue) -> None:
    tenant = ["--tenant", jobs.one]
    failed, waiting = jobs.defer(jobs.one, 1), jobs.defer(jobs.one, 2)
    jobs.defer(jobs.two, 3)
    jobs.task.on_run = _raising(ValueError("secret"))
    jobs.worker.run_job(jobs.worker.acquire(failed))  # type: ignore[arg-type]

    mine = json.loads(_run("list", *tenant, "--json"))
    assert [(each["job_id"], each["status"]) for each in mine] == [
        (str(waiting), "pending"),
        (str(failed), "failed"),
    ]
    assert len(json.loads(_run("list", "--kind", jobs.kind, "--json"))) == 3
    assert str(failed) in _run("list", *tenant, "--status", "failed")
    assert "1 older" in _run("list", *tenant, "--limit", "1")
    shown = json.loads(_run("show", str(failed), *tenant, "--json"))
    assert (shown["arguments"], shown["message"]) == (
        {"number": 1},
        "Failed: The job failed with ValueError; the worker's log says more.",
    )
    assert 'arguments: {"number": 1}' in _run("show", str(failed), *tenant)

    assert _run("cancel", str(waiting), *tenant) == f"{waiting}: Failed: {CANCELLED}\n"
    with pytest.raises(ConflictError, match="has ended already: failed"):
        _run("cancel", str(failed), *tenant)
    for command in ("show", "cancel", "retry"):
        with pytest.raises(NotFoundError):
            _run(command, str(failed), "--tenant", jobs.two)
    assert _run("retry", str(failed), *tenant) == f"{failed}: It waits for a worker.\n"
    with pytest.raises(ConflictError, match="is pending"):
        _run("retry", str(failed), *tenant)
    jobs.task.on_run = lambda _job, _lease: None
    jobs.worker.run_job(jobs.worker.acquire(failed))  # type: ignore[arg-type]
    found = jobs.find(jobs.one, failed)
    assert (found.status, found.error, found.attempts, found.fence) == ("completed", None, 1, 2)


def test_attempts__are_counted_by_kind_and_outcome(jobs: Queue) -> None:
    jobs.defer(jobs.one)
    jobs.worker.run(once=True)
    labels = {"kind": jobs.kind, "outcome": "completed"}
    assert REGISTRY.get_sample_value("ai_hub_job_attempts_total", labels) == 1

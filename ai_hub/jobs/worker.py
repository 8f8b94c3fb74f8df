"""The worker: acquires jobs of all tenants, does them by their task, and records the result.

A task runs the jobs of one kind. The lease of a job is renewed while it is done; a failure that may pass by
itself is tried again.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import psycopg
import structlog
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from ai_hub.errors import AiHubError, ServiceDownError
from ai_hub.jobs import queue
from ai_hub.jobs.queue import ATTEMPTS, CANCELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from uuid import UUID

    from ai_hub.jobs.queue import Job
    from ai_hub.settings import Settings


_RENEW_S: Final = 2.0
_LOOK_S: Final = 0.1
#: After the stop an attempt may end by itself so long; `ai-hub serve` waits for longer (`ai_hub.api.server`).
_GRACE_S: Final = 8.0
_log = structlog.get_logger(__name__)


class MustEndError(Exception):
    """The work is to end now."""


class StoppedError(MustEndError):
    """The process is to end."""


class CancelledError(MustEndError):
    """Somebody has cancelled the job."""


class LostError(MustEndError):
    """Another worker has the job."""


class ExpiredError(MustEndError, AiHubError):
    """Another worker may have the job, because the database has not answered."""

    retryable = True


class Lease:
    """In its block the lease is renewed, also while the job is being ended.

    Some seconds after the stop it is released, so that another worker begins anew while this one is still at
    a step that cannot be interrupted, or is killed in it.
    """

    def __init__(self, settings: Settings, job: Job, stop: threading.Event) -> None:
        #: share of the work that is done, 0 to 1
        self.progress = 0.0
        #: after the stop: the job waits for another worker
        self.is_released = False
        self._settings = settings
        self._job = job
        self._stop = stop
        self._interrupt: Callable[[], None] | None = None
        self._done = threading.Event()
        self._reason: type[MustEndError] | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def has_expired(self) -> bool:
        """Whether the work had to end because the lease could not be renewed."""
        return self._reason is ExpiredError

    def on_end(self, interrupt: Callable[[], None]) -> None:
        """Call `interrupt` once, in another thread, as soon as the work has to end."""
        self._interrupt = interrupt

    def check(self) -> None:
        """Raise `MustEndError` if the work has to end."""
        if self._stop.is_set():
            raise StoppedError
        if self._reason is not None:
            raise self._reason

    def confirm(self) -> None:
        """Make sure of the job once more, right before what cannot be undone; raises `MustEndError`."""
        self.check()
        renew = queue.through_outage(self._stop)
        self._judge(renew(queue.renew, self._settings, self._job, self.progress))
        self.check()

    def _keep(self) -> None:
        renewed = tried = time.monotonic()
        stopped_at: float | None = None
        while not self._done.wait(_LOOK_S):
            if self._stop.is_set():
                stopped_at = stopped_at or time.monotonic()
            if time.monotonic() >= tried + _RENEW_S:
                tried = time.monotonic()
                try:
                    if stopped_at and tried > stopped_at + _GRACE_S:
                        self.is_released = queue.requeue(self._settings, self._job, counted=False)
                        return
                    self._judge(queue.renew(self._settings, self._job, self.progress))
                    renewed = tried
                except Exception as error:  # noqa: BLE001  # without this thread the job is soon lost
                    _log.warning("lease.renewal_failed", job_id=str(self._job.job_id), reason=str(error))
                    if time.monotonic() > renewed + queue.LEASE_S:
                        self._reason = self._reason or ExpiredError
            if (self._stop.is_set() or self._reason is not None) and self._interrupt is not None:
                interrupt, self._interrupt = self._interrupt, None
                interrupt()
            if self._reason is LostError:
                return

    def _judge(self, cancelled: bool | None) -> None:
        if cancelled is None:
            self._reason = LostError
        elif cancelled:
            self._reason = CancelledError


@dataclass(frozen=True)
class RetryStrategy:
    """How often a job is tried, counting workers that died with it."""

    max_attempts: int = 3
    #: seconds after the first, the second, … failure that may pass by itself; the last one for all later ones
    pauses_s: tuple[float, ...] = (5.0, 20.0)

    def pause(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        return self.pauses_s[min(attempts, len(self.pauses_s)) - 1]


DEFAULT_RETRY: Final = RetryStrategy()


class Attempt(Protocol):
    """One attempt at an acquired job."""

    def clean(self) -> None:
        """Remove what this attempt and earlier ones have left; what has a greater fence stays.

        Called before `run`, after it where it did not complete the job, and for failed jobs whose store was
        away at the end.
        """

    def run(self, lease: Lease) -> dict[str, Any]:
        """Do the work and return its result, which JSON can hold.

        It sets `lease.progress`, calls `lease.check()` between its steps, and `lease.confirm()` right before
        what cannot be undone.
        """

    def result(self) -> dict[str, Any] | None:
        """The result of what attempts have done that cannot be undone; None: there is nothing of it.

        Asked where the job would fail otherwise: it is completed then, also if it was cancelled.
        """


class Task(Protocol):
    """Does jobs of one kind."""

    @property
    def kind(self) -> str:
        """Name of the kind, as `jobs` has it."""

    @property
    def retry(self) -> RetryStrategy:
        """How often it tries, and after which pauses."""

    @property
    def late_s(self) -> float:
        """So long after its failure something of a job may still be done by others, and is looked for."""

    def attempt(self, job: Job) -> Attempt:
        """An attempt at the job, which has not begun."""

    def maintain(self) -> None:
        """What a worker does every few seconds while no job waits."""


_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_SERVER_ERROR: Final = 500
_PASSING_STATUSES: Final = {408, 429}
#: With another status. An upload that is gone: somebody else's clean-up took it. A clock that differs: this
#: process was asleep, and what it sent is old.
_PASSING_CODES: Final = {"RequestTimeout", "RequestTimeTooSkewed", "NoSuchUpload"}
#: Classes of SQLSTATE: connection, rollback, resources, operator's intervention.
_PASSING_STATES: Final = ("08", "40", "53", "57")


def _is(error: Exception, module: str, name: str) -> bool:
    """Whether an error is of a class that takes long to import; only a module that is loaded can raise it."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _is_of_feast(error: Exception) -> bool:
    return _is(error, "feast.errors", "FeastError")


def _is_of_adbc(error: Exception) -> bool:
    return _is(error, "adbc_driver_manager.dbapi", "Error")


def _is_of_sqlalchemy(error: Exception) -> bool:
    return _is(error, "sqlalchemy.exc", "OperationalError")


def may_pass(error: Exception) -> bool:
    """Whether a retry may succeed: a server was away or overloaded."""
    match error:
        case ClientError():
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = error.response.get("Error", {}).get("Code")
            return status >= _SERVER_ERROR or status in _PASSING_STATUSES or code in _PASSING_CODES
        case AiHubError():
            return error.retryable
        case _ if _is_of_adbc(error):
            state = getattr(error, "sqlstate", None)
            return not state or state.startswith(_PASSING_STATES)
        case OSError():
            # without a number: of a stream from the database that broke off
            return error.errno is None
        case _:
            return isinstance(error, BotoCoreError | HTTPClientError) or _is_of_sqlalchemy(error)


def is_defect(error: Exception) -> bool:
    """Whether the error is unexpected, and so a defect."""
    expected = isinstance(error, AiHubError | OSError | ClientError) or _is_of_feast(error)
    return not expected and not may_pass(error)


def reason(error: Exception) -> str:  # noqa: PLR0911  # a table of texts
    """Error text for the job's owner, without paths of the server and without SQL."""
    match error:
        case AiHubError():
            return error.message
        case OSError() if error.errno in _FULL:
            return "No space is left where its files are stored."
        case OSError() if error.errno is not None:
            return f"The file could not be written: {error.strerror}."
        case ClientError():
            details = error.response.get("Error", {})
            return f"The S3 store refused: {details.get('Code')}, {details.get('Message')}."
        case BotoCoreError() | HTTPClientError():
            return f"The S3 store does not answer: {type(error).__name__}."
        case _ if _is_of_feast(error):
            return str(error)
        case _ if isinstance(error, OSError) or _is_of_adbc(error) or _is_of_sqlalchemy(error):
            return "The database ended the connection or refused the query; the worker's log says more."
        case _:
            return f"The job failed with {type(error).__name__}; the worker's log says more."


_PAUSE_S: Final = (0.2, 2.0)
_LONGEST_OUTAGE_PAUSE_S: Final = 10.0
#: How often to look for orphans, and for what else tasks maintain.
_MAINTAIN_S: Final = 10.0
_DIED: Final = "Its workers ended {attempts} times before it was done; their logs may say why."


class Worker:
    """Does the jobs of its tasks, one after another, until `stop` is set."""

    def __init__(self, settings: Settings, tasks: Iterable[Task], stop: threading.Event) -> None:
        self._settings = settings
        self._tasks = {task.kind: task for task in tasks}
        self._stop = stop
        self._through_outage = queue.through_outage(stop)
        #: no other worker has this name
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def run(self, *, once: bool = False) -> None:
        """Do jobs; with `once`, until none waits. Goes on through outages of the database."""
        pause = _PAUSE_S[0]
        maintain_at = 0.0
        while not self._stop.is_set():
            try:
                job = self.acquire()
                if job is not None:
                    self.run_job(job)
                    pause = _PAUSE_S[0]
                    continue
                if time.monotonic() >= maintain_at:
                    maintain_at = time.monotonic() + _MAINTAIN_S
                    self.remove_orphans()
                    for task in self._tasks.values():
                        task.maintain()
            except (ServiceDownError, psycopg.Error) as error:
                if once:
                    raise
                _log.warning("queue.read_failed", reason=str(error))
                self._stop.wait(min(5 * pause, _LONGEST_OUTAGE_PAUSE_S))
            if once:
                return
            self._stop.wait(pause)
            pause = min(pause * 1.5, _PAUSE_S[1])

    def acquire(self, job_id: UUID | None = None) -> Job | None:
        """See `queue.acquire`."""
        return queue.acquire(self._settings, self.name, list(self._tasks), job_id=job_id)

    def run_job(self, job: Job) -> str:
        """Do an acquired job and record what became of it; returns that for logs and metrics.

        completed, failed, cancelled, requeued, or lost to another worker.
        """
        outcome = self._run_job(job)
        ATTEMPTS.labels(job.kind, outcome).inc()
        return outcome

    def remove_orphans(self) -> None:
        """Remove what failed jobs have left where a store was away at their end, until a store refuses."""
        while (job := queue.take_orphaned(self._settings, list(self._tasks))) is not None:
            task = self._tasks[job.kind]
            try:
                attempt = task.attempt(job)
                attempt.clean()
                result = attempt.result()
            except (AiHubError, OSError, BotoCoreError, ClientError) as error:
                _log.warning(
                    "orphans.delete_failed",
                    job_id=str(job.job_id),
                    tenant=job.tenant_id,
                    reason=reason(error),
                )
                return
            if result is not None:
                if queue.complete_late(self._settings, job, result):
                    _log_completed(job, result)
            else:
                queue.note_cleaned(self._settings, job, late_s=task.late_s)

    def _run_job(self, job: Job) -> str:
        log = _log_of(job)
        task = self._tasks[job.kind]
        attempt: Attempt | None = None
        # kept to the end: cleaning up can take longer than a lease
        with Lease(self._settings, job, self._stop) as lease:
            try:
                attempt = task.attempt(job)
                attempt.clean()
                if job.cancel_requested:
                    raise CancelledError  # noqa: TRY301  # its last worker died meanwhile
                if job.attempts > task.retry.max_attempts:
                    return self._fail(job, attempt, _DIED.format(attempts=task.retry.max_attempts))
                result = attempt.run(lease)
                if not self._through_outage(queue.complete, self._settings, job, result):
                    raise CancelledError  # noqa: TRY301  # at the last moment
            except Exception as raised:  # each has to be recorded
                # and not what has become of an interrupted query
                error = ExpiredError() if lease.has_expired else raised
                outcome = self._end(job, attempt, error, lease)
                if outcome != "completed":
                    log.warning("job_not_completed", outcome=outcome, reason=reason(error))
                if outcome == "failed" and is_defect(error):
                    log.exception("job_failed")
                return outcome
        _log_completed(job, result)
        return "completed"

    def _end(self, job: Job, attempt: Attempt | None, error: Exception, lease: Lease) -> str:
        """Record how an attempt ended that did not complete the job."""
        if lease.is_released:
            return "requeued"
        cancelled = self._through_outage(queue.renew, self._settings, job, 0)
        if cancelled is None:
            # the next attempt has removed what this one made
            return "lost"
        retry = self._tasks[job.kind].retry
        if self._stop.is_set() or isinstance(error, StoppedError):
            return self._requeue(job, attempt, counted=False)
        if cancelled:
            return self._fail(job, attempt, CANCELLED)
        if may_pass(error) and job.attempts < retry.max_attempts:
            return self._requeue(job, attempt, pause_s=retry.pause(job.attempts))
        return self._fail(job, attempt, reason(error))

    def _requeue(self, job: Job, attempt: Attempt | None, *, pause_s: float = 0, counted: bool = True) -> str:
        _is_cleaned(attempt)
        held = self._through_outage(queue.requeue, self._settings, job, pause_s=pause_s, counted=counted)
        return "requeued" if held else "lost"

    def _fail(self, job: Job, attempt: Attempt | None, error: str) -> str:
        # where there could be no attempt, earlier ones may have left something
        cleaned = _is_cleaned(attempt) and (attempt is not None or job.fence == 1)
        try:
            result = attempt.result() if attempt is not None else None
        except (AiHubError, OSError):  # `remove_orphans` asks again
            result, cleaned = None, False
        if result is not None:
            if not self._through_outage(queue.complete, self._settings, job, result, even_cancelled=True):
                return "lost"
            _log_completed(job, result)
            return "completed"
        has_orphans = not cleaned or self._tasks[job.kind].late_s > 0
        if not self._through_outage(queue.fail, self._settings, job, error, has_orphans=has_orphans):
            return "lost"
        return "cancelled" if error == CANCELLED else "failed"


def _log_of(job: Job) -> Any:
    return _log.bind(kind=job.kind, job_id=str(job.job_id), tenant=job.tenant_id, attempt=job.attempts)


def _log_completed(job: Job, result: dict[str, Any]) -> None:
    # such as rows and bytes of an export
    _log_of(job).info("job_completed", result={name: n for name, n in result.items() if isinstance(n, int)})


def _is_cleaned(attempt: Attempt | None) -> bool:
    """Whether nothing is left of the attempt; otherwise the next one removes it, or `remove_orphans`."""
    try:
        if attempt is not None:
            attempt.clean()
    except (AiHubError, OSError, BotoCoreError, ClientError):
        return False
    return True

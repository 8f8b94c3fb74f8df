"""The queue of jobs in the database: defer, acquire, renew, requeue, complete, fail, cancel, retry.

Prometheus gets their numbers, without names of tenants.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from psycopg.errors import UniqueViolation
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
)

from ai_hub.db.transactions import brief_session, transaction
from ai_hub.errors import AiHubError, ConflictError, NotFoundError, ServiceDownError

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Iterator, Sequence

    from ai_hub.settings import Settings


#: Error of a job that somebody cancelled.
CANCELLED: Final = "Cancelled on request."
STATUSES: Final = ("pending", "running", "completed", "failed")
UNFINISHED: Final = frozenset({"pending", "running"})

#: Columns of a `Job`, as in its definition.
COLUMNS: Final = (
    "job_id, kind, tenant_id, arguments, status, fence, holder, lease_until, next_at, attempts, progress,"
    " cancel_requested, result, error, created_by, created_at, started_at, completed_at"
)


@dataclass(frozen=True)
class Job:
    """One row. Times are in UTC."""

    job_id: UUID
    kind: str
    tenant_id: str
    arguments: dict[str, Any]
    status: str
    #: fencing token, incremented on every acquisition
    fence: int
    #: worker that has a running job
    holder: str | None
    #: of a running job: until when no other worker may acquire it
    lease_until: datetime | None
    #: of a pending job: not to be acquired before
    next_at: datetime
    attempts: int
    #: share of the work that is done, 0 to 1
    progress: float
    cancel_requested: bool
    result: dict[str, Any] | None
    error: str | None
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended."""
        return self.status not in UNFINISHED

    @property
    def message(self) -> str:
        """Its state as text."""
        return describe(self.status, self.error, self.progress, cancel_requested=self.cancel_requested)


def describe(status: str, error: str | None, progress: float, *, cancel_requested: bool) -> str:
    """State of a job as text."""
    if status == "completed":
        return "Completed."
    if status == "failed":
        return f"Failed: {error}"
    if cancel_requested:
        return "It is being cancelled."
    if status == "running":
        return f"Running: {progress:.0%} done."
    return "It waits for a worker."


#: Seconds a job stays with a worker that does not renew its lease.
LEASE_S: Final = 12.0

# Round-robin over tenants, first in first out within one.
_ACQUIRE: Final = f"""
UPDATE jobs SET
    status = 'running', holder = %(holder)s, attempts = attempts + 1, fence = fence + 1, progress = 0,
    lease_until = clock_timestamp() + %(lease)s * INTERVAL '1 second', started_at = clock_timestamp()
WHERE job_id = (
    SELECT job_id FROM jobs AS waiting
    WHERE kind = ANY(%(kinds)s) AND (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s) AND (
        status = 'pending' AND next_at <= clock_timestamp()
        OR status = 'running' AND lease_until <= clock_timestamp()
    )
    ORDER BY (
        SELECT max(started_at) FROM jobs AS other WHERE other.tenant_id = waiting.tenant_id
    ) NULLS FIRST, created_at
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING {COLUMNS}
"""  # noqa: S608  # constants
_HELD: Final = "WHERE job_id = %(job_id)s AND fence = %(fence)s AND status = 'running'"
_RENEW: Final = f"""
UPDATE jobs SET
    lease_until = clock_timestamp() + %(lease)s * INTERVAL '1 second', progress = %(progress)s
{_HELD} RETURNING cancel_requested
"""  # noqa: S608  # constants
_REQUEUE: Final = f"""
UPDATE jobs SET
    status = 'pending', holder = NULL, lease_until = NULL, progress = 0, attempts = attempts - %(uncounted)s,
    next_at = clock_timestamp() + %(pause)s * INTERVAL '1 second'
{_HELD} RETURNING true
"""  # noqa: S608  # constants
_FAIL: Final = f"""
UPDATE jobs SET
    status = 'failed', error = %(error)s, holder = NULL, lease_until = NULL, completed_at = clock_timestamp(),
    clean_after = CASE WHEN %(has_orphans)s THEN clock_timestamp() END
{_HELD} RETURNING true
"""  # noqa: S608  # constants
_COMPLETE: Final = f"""
UPDATE jobs SET
    status = 'completed', progress = 1, holder = NULL, lease_until = NULL, completed_at = clock_timestamp(),
    result = %(result)s
{_HELD} AND (%(even_cancelled)s OR NOT cancel_requested) RETURNING true
"""  # noqa: S608  # constants
_COMPLETE_LATE: Final = """
UPDATE jobs SET status = 'completed', progress = 1, error = NULL, result = %s, clean_after = NULL
WHERE job_id = %s AND fence = %s AND status = 'failed'
"""
_CANCEL: Final = """
UPDATE jobs SET
    cancel_requested = true,
    status = CASE status WHEN 'pending' THEN 'failed' ELSE status END,
    error = CASE status WHEN 'pending' THEN %(error)s END,
    completed_at = CASE status WHEN 'pending' THEN clock_timestamp() END,
    -- an attempt that was requeued may have left something
    clean_after = CASE WHEN status = 'pending' AND fence > 0 THEN clock_timestamp() END
WHERE job_id = %(job_id)s AND tenant_id = %(tenant)s AND status IN ('pending', 'running')
"""
_RETRY: Final = """
UPDATE jobs SET
    status = 'pending', attempts = 0, next_at = clock_timestamp(), progress = 0, cancel_requested = false,
    error = NULL, completed_at = NULL, clean_after = NULL
WHERE job_id = %(job_id)s AND tenant_id = %(tenant)s AND status = 'failed'
"""
# Pauses grow with the time since the job ended; after a week it is given up. An unfinished job with the same
# lock may be at work in the same place and is waited for.
_TAKE_ORPHANED: Final = f"""
UPDATE jobs SET clean_after = clock_timestamp()
    + least(greatest(clock_timestamp() - completed_at, INTERVAL '30 s'), INTERVAL '1 hour')
WHERE job_id = (
    SELECT job_id FROM jobs AS ended
    WHERE kind = ANY(%(kinds)s) AND status = 'failed' AND clean_after <= clock_timestamp()
        AND completed_at > clock_timestamp() - INTERVAL '7 days'
        AND NOT EXISTS (
            SELECT FROM jobs AS other
            WHERE other.tenant_id = ended.tenant_id AND other.kind = ended.kind
                AND other.queueing_lock = ended.queueing_lock AND other.status IN ('pending', 'running')
        )
    ORDER BY clean_after LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING {COLUMNS}
"""  # noqa: S608  # constants
# arguments and results can be long
_BRIEF: Final = COLUMNS.replace(" arguments,", " '{}'::jsonb AS arguments,").replace(
    " result,", " NULL::jsonb AS result,"
)
#: What must not get lost is tried again while the database is away, so many seconds.
_OUTAGE_S: Final = 120


@dataclass(frozen=True)
class NewJob:
    """A job to be deferred."""

    job_id: UUID
    kind: str
    tenant: str
    arguments: dict[str, Any]
    #: no other unfinished job of the tenant and kind may have it
    queueing_lock: str | None = None
    #: no other job of the tenant and kind may ever have it
    idempotency_key: str | None = None
    created_by: str | None = None


def defer(connection: psycopg.Connection[Any], job: NewJob) -> None:
    """Put a job into the queue; it is there when the connection's transaction is committed.

    Raises:
        psycopg.errors.UniqueViolation: another job has its lock or key.
    """
    connection.execute(
        "INSERT INTO jobs (job_id, kind, tenant_id, arguments, queueing_lock, idempotency_key, created_by)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [
            job.job_id,
            job.kind,
            job.tenant,
            Jsonb(job.arguments),
            job.queueing_lock,
            job.idempotency_key,
            job.created_by,
        ],
    )


def acquire(
    settings: Settings, holder: str, kinds: Sequence[str], *, job_id: UUID | None = None
) -> Job | None:
    """Acquire the job whose turn it is, or the one with `job_id`; None if there is none to acquire."""
    values = {"holder": holder, "lease": LEASE_S, "kinds": list(kinds), "job_id": job_id}
    return _one(settings, _ACQUIRE, values)


def is_stalled(settings: Settings, job_id: UUID) -> bool:
    """Whether a running job's lease has ended."""
    query = "SELECT FROM jobs WHERE job_id = %s AND status = 'running' AND lease_until <= clock_timestamp()"
    with transaction(settings) as connection:
        return connection.execute(query, [job_id]).fetchone() is not None


def through_outage(stop: threading.Event) -> Retrying:
    """Calls one of the functions below, again while the database is away; once more after the stop."""
    return Retrying(
        retry=retry_if_exception_type(ServiceDownError),
        stop=stop_after_delay(_OUTAGE_S) | stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        wait=wait_exponential(multiplier=0.2, max=5),
        reraise=True,
    )


def renew(settings: Settings, job: Job, progress: float) -> bool | None:
    """Renew the lease; returns whether cancellation is requested, or None if another worker has the job."""
    row = _update(settings, _RENEW, job, lease=LEASE_S, progress=progress)
    return None if row is None else bool(row[0])


def requeue(settings: Settings, job: Job, *, pause_s: float = 0, counted: bool = True) -> bool:
    """Let it be acquired again after a pause; False if another worker has it.

    Unless `counted`, this attempt is none of those that a job may have.
    """
    return _update(settings, _REQUEUE, job, pause=pause_s, uncounted=int(not counted)) is not None


def fail(settings: Settings, job: Job, error: str, *, has_orphans: bool = False) -> bool:
    """End it without a result; False if another worker has it."""
    return _update(settings, _FAIL, job, error=error, has_orphans=has_orphans) is not None


def complete(settings: Settings, job: Job, result: dict[str, Any], *, even_cancelled: bool = False) -> bool:
    """End it with its result; False if another worker has it, or if it was cancelled."""
    values = {"result": Jsonb(result), "even_cancelled": even_cancelled}
    return _update(settings, _COMPLETE, job, **values) is not None


def cancel(connection: psycopg.Connection[Any], tenant: str, job_id: UUID) -> Job:
    """Cancel an unfinished job: a pending one at once, a running one when its worker renews its lease.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: it has ended otherwise.
    """
    connection.execute(_CANCEL, {"error": CANCELLED, "tenant": tenant, "job_id": job_id})
    job = find(connection, tenant, job_id)
    if job.is_finished and job.error != CANCELLED:
        raise ConflictError(
            f"{job.kind.capitalize()} {job_id} has ended already: {job.status}.",
            hint="Only an unfinished one can be cancelled.",
        )
    return job


def retry(connection: psycopg.Connection[Any], tenant: str, job_id: UUID) -> Job:
    """Put a failed or cancelled job into the queue again, with all its attempts.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: it has not failed, or another one has its lock.
    """
    job = find(connection, tenant, job_id)
    try:
        changed = connection.execute(_RETRY, {"tenant": tenant, "job_id": job_id}).rowcount
    except UniqueViolation as error:
        raise ConflictError(
            f"Another job does what job {job_id} did.", hint="Wait until it has ended, or cancel it."
        ) from error
    if not changed:
        raise ConflictError(f"Job {job_id} is {job.status}.", hint="Only a failed job can be tried again.")
    return find(connection, tenant, job_id)


def delete(connection: psycopg.Connection[Any], tenant: str, job_id: UUID, fence: int) -> None:
    """Delete an ended job, unless it was acquired again since it had this fence."""
    connection.execute(
        "DELETE FROM jobs WHERE tenant_id = %s AND job_id = %s AND fence = %s"
        " AND status IN ('completed', 'failed')",
        [tenant, job_id, fence],
    )


def find(connection: psycopg.Connection[Any], tenant: str, job_id: UUID) -> Job:
    """A job of the tenant.

    Raises:
        NotFoundError: it has none with this id.
    """
    query = f"SELECT {COLUMNS} FROM jobs WHERE tenant_id = %s AND job_id = %s"  # noqa: S608
    with connection.cursor(row_factory=class_row(Job)) as cursor:
        job = cursor.execute(query, [tenant, job_id]).fetchone()
    if job is None:
        raise NotFoundError(f"Tenant {tenant} has no job {job_id}.", hint="`ai-hub jobs list` shows them.")
    return job


def newest(  # filters
    connection: psycopg.Connection[Any],
    *,
    tenant: str | None = None,
    kind: str | None = None,
    status: str | None = None,
    limit: int = 20,
    offset: int = 0,
) -> tuple[list[Job], int]:
    """Jobs that the connection sees, newest first, and how many there are without `limit`.

    They come without `arguments` and `result`.
    """
    filters = {"tenant_id": tenant, "kind": kind, "status": status}
    where = " AND ".join(["true", *(f"{name} = %({name})s" for name, value in filters.items() if value)])
    parameters = filters | {"limit": limit, "offset": offset}
    query = (
        f"SELECT {_BRIEF} FROM jobs WHERE {where}"  # noqa: S608
        " ORDER BY created_at DESC, job_id LIMIT %(limit)s OFFSET %(offset)s"
    )
    with connection.cursor(row_factory=class_row(Job)) as cursor:
        jobs = cursor.execute(query.encode(), parameters).fetchall()
    row = connection.execute(f"SELECT count(*) FROM jobs WHERE {where}".encode(), parameters).fetchone()  # noqa: S608
    return jobs, row[0] if row else 0


def take_orphaned(settings: Settings, kinds: Sequence[str]) -> Job | None:
    """A failed job that may have left something behind, for some time; None if there is none due."""
    return _one(settings, _TAKE_ORPHANED, {"kinds": list(kinds)})


def complete_late(settings: Settings, job: Job, result: dict[str, Any]) -> bool:
    """What this failed job was to do was done all the same; False if it was acquired again since."""
    with transaction(settings) as connection:
        return connection.execute(_COMPLETE_LATE, [Jsonb(result), job.job_id, job.fence]).rowcount > 0


def note_cleaned(settings: Settings, job: Job, *, late_s: float = 0) -> None:
    """Nothing is left behind by this failed job, unless it was acquired again since it had this fence.

    Before so many seconds after its end it is looked at again.
    """
    with transaction(settings) as connection:
        connection.execute(
            "UPDATE jobs SET clean_after = NULL WHERE job_id = %s AND fence = %s AND status = 'failed'"
            " AND completed_at <= clock_timestamp() - %s * INTERVAL '1 second'",
            [job.job_id, job.fence, late_s],
        )


def _one(settings: Settings, query: str, values: dict[str, Any]) -> Job | None:
    with transaction(settings) as connection, connection.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(query.encode(), values).fetchone()


def _update(settings: Settings, query: str, job: Job, **values: Any) -> tuple[Any, ...] | None:
    held = {"job_id": job.job_id, "fence": job.fence}
    with transaction(settings) as connection:
        return connection.execute(query.encode(), held | values).fetchone()


#: Outcomes: see `worker.Worker.run_job`.
ATTEMPTS: Final = Counter(
    "ai_hub_job_attempts", "Attempts at jobs, by kind and by what came of them", ["kind", "outcome"]
)
#: Seconds between two reads, and how long one may take: nobody waits for it.
_EVERY_S: Final = 10.0
_LIMIT_S: Final = 2
_COUNT: Final = "SELECT kind, status, count(*) FROM jobs GROUP BY kind, status"


class JobCounts(Collector):
    """Gauges of jobs by kind and status, and of the age of these numbers, read beside the scrapes."""

    def __init__(self, settings: Settings, kinds: Sequence[str]) -> None:
        self._settings = settings
        #: shown with zeros where there are no jobs
        self._kinds = kinds
        #: when the database last answered, and what; None: never
        self._last: tuple[float, dict[tuple[str, str], int]] | None = None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Read the numbers every few seconds in this block."""
        keeping = asyncio.create_task(self._keep(), name="job counts")
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the database last said, and how long ago; asks nobody."""
        jobs = GaugeMetricFamily(
            "ai_hub_jobs", "Jobs of all tenants, by kind and status", labels=["kind", "status"]
        )
        age = GaugeMetricFamily("ai_hub_jobs_age_seconds", "Seconds since the jobs were counted", labels=[])
        if self._last is not None:
            read_at, counts = self._last
            for kind in sorted({*self._kinds, *(kind for kind, _ in counts)}):
                for status in STATUSES:
                    jobs.add_metric([kind, status], counts.get((kind, status), 0))
            age.add_metric([], time.monotonic() - read_at)
        yield jobs
        yield age

    async def _keep(self) -> None:
        while True:
            # the age tells of a database that does not answer, and the service's readiness why
            with suppress(AiHubError, psycopg.Error, OSError, TimeoutError):
                self._last = time.monotonic(), await self._read()
            await asyncio.sleep(_EVERY_S)

    async def _read(self) -> dict[tuple[str, str], int]:
        # the limits within hold where the server is slow, this one where nothing comes back
        async with asyncio.timeout(2 * _LIMIT_S), brief_session(self._settings, _LIMIT_S) as connection:
            rows = await (await connection.execute(_COUNT)).fetchall()
        return {(kind, status): int(count) for kind, status, count in rows}

"""What workers do to jobs in the database: take up, keep, give back, end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential

from ai_hub.database.connection import shares_backend
from ai_hub.errors import ServiceDownError
from ai_hub.exports.database import transaction
from ai_hub.exports.jobs import COLUMNS, Job

if TYPE_CHECKING:
    from uuid import UUID

    from ai_hub.exports.writing import Written
    from ai_hub.settings import Settings

#: Seconds a job stays with a worker that does not renew; a dead worker's job is taken up after that.
LEASE_S: Final = 12.0
MOST_ATTEMPTS: Final = 3

# Of tenants with waiting jobs the one whose turn was longest ago is next: nobody's many jobs hold up others.
_CLAIM = """
UPDATE feature_exports SET
    status = 'running', worker = {worker}, attempts = attempts + 1, fence = fence + 1, progress = 0,
    lease_until = clock_timestamp() + {lease}, started_at = clock_timestamp()
WHERE export_id = (
    SELECT export_id FROM feature_exports AS waiting
    WHERE (
        status = 'pending' AND (lease_until IS NULL OR lease_until <= clock_timestamp())
        OR status = 'running' AND lease_until <= clock_timestamp()
    ) AND {which}
    ORDER BY (
        SELECT max(started_at) FROM feature_exports AS other WHERE other.tenant_id = waiting.tenant_id
    ) NULLS FIRST, created_at
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING {columns}
"""
_MINE = "WHERE export_id = %(export_id)s AND fence = %(fence)s AND status = 'running'"
_RENEW = f"""
UPDATE feature_exports SET
    lease_until = clock_timestamp() + %(lease)s * INTERVAL '1 second', progress = %(progress)s
{_MINE} RETURNING cancel_requested
"""  # noqa: S608  # constants
_GIVE_BACK = f"""
UPDATE feature_exports SET
    status = 'pending', worker = NULL, progress = 0, attempts = attempts - %(forgive)s,
    lease_until = clock_timestamp() + %(pause)s * INTERVAL '1 second'
{_MINE} RETURNING true
"""  # noqa: S608  # constants
_FAIL = f"""
UPDATE feature_exports SET
    status = 'failed', error = %(error)s, worker = NULL, lease_until = NULL, completed_at = clock_timestamp(),
    clean_after = CASE WHEN %(leaves_files)s THEN clock_timestamp() END
{_MINE} RETURNING true
"""  # noqa: S608  # constants
_COMPLETE = f"""
UPDATE feature_exports SET
    status = 'completed', progress = 1, worker = NULL, lease_until = NULL, completed_at = clock_timestamp(),
    row_count = %(row_count)s, file_size_bytes = %(size)s, sha256 = %(sha256)s,
    file_sha256 = %(file_sha256)s, storage_path = %(storage_path)s, service_version = %(version)s
{_MINE} AND NOT cancel_requested RETURNING true
"""  # noqa: S608  # constants
#: What must not get lost is tried again while the database is away, so long.
_through_outage = retry(
    retry=retry_if_exception_type(ServiceDownError),
    stop=stop_after_delay(120),
    wait=wait_exponential(multiplier=0.2, max=5),
    reraise=True,
)


def claim(settings: Settings, worker: str, export_id: UUID | None = None) -> Job | None:
    """Take up the job whose turn it is, or this one; None if there is none to take up."""
    which = sql.SQL("true") if export_id is None else sql.SQL("export_id = {}").format(sql.Literal(export_id))
    query = sql.SQL(_CLAIM).format(
        worker=sql.Literal(worker),
        lease=sql.SQL("{} * INTERVAL '1 second'").format(sql.Literal(LEASE_S)),
        which=which,
        columns=sql.SQL(COLUMNS),
    )
    with transaction(settings) as connection, connection.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(query).fetchone()


def is_overdue(settings: Settings, job: Job) -> bool:
    """Whether a running job was not renewed in time."""
    query = (
        "SELECT FROM feature_exports WHERE export_id = %s AND status = 'running'"
        " AND lease_until <= clock_timestamp()"
    )
    with transaction(settings) as connection:
        return connection.execute(query, [job.export_id]).fetchone() is not None


def renew(settings: Settings, job: Job, progress: float) -> bool | None:
    """Keep the job; whether its cancellation is asked for, or None if it is somebody else's by now."""
    row = _update(settings, _RENEW, job, lease=LEASE_S, progress=progress)
    return None if row is None else bool(row[0])


@_through_outage
def renew_surely(settings: Settings, job: Job, progress: float = 0) -> bool | None:
    """The same where it must be known."""
    return renew(settings, job, progress)


@_through_outage
def give_back(settings: Settings, job: Job, *, pause_s: float = 0, forgive: bool = False) -> bool:
    """Let it be taken up again after a pause; with `forgive` this attempt does not count.

    False if it is somebody else's by now.
    """
    return _update(settings, _GIVE_BACK, job, pause=pause_s, forgive=int(forgive)) is not None


@_through_outage
def fail(settings: Settings, job: Job, error: str, *, leaves_files: bool = False) -> bool:
    """End it without a file; False if it is somebody else's by now."""
    return _update(settings, _FAIL, job, error=error, leaves_files=leaves_files) is not None


@_through_outage
def complete(settings: Settings, job: Job, written: Written, version: str) -> bool:
    """End it with its file; False if it was cancelled or is somebody else's by now."""
    row = _update(
        settings,
        _COMPLETE,
        job,
        row_count=written.rows,
        size=written.size,
        sha256=written.sha256,
        file_sha256=None if written.file_sha256 is None else Jsonb(written.file_sha256),
        storage_path=written.storage_path,
        version=version,
    )
    return row is not None


def _update(settings: Settings, query: str, job: Job, **values: Any) -> tuple[Any, ...] | None:
    mine = {"export_id": job.export_id, "fence": job.fence}
    with transaction(settings) as connection:
        return connection.execute(query.encode(), mine | values).fetchone()


def is_shared(settings: Settings) -> bool:
    """Whether sessions share one backend, as on the embedded server: a transaction holds up all others."""
    with transaction(settings) as connection:
        return shares_backend(connection)

"""A job as the table `jobs` has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

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
        """Whether nothing will happen to it any more."""
        return self.status not in UNFINISHED

    @property
    def message(self) -> str:
        """Where it is, for a reader."""
        return describe(self.status, self.error, self.progress, cancel_requested=self.cancel_requested)


def describe(status: str, error: str | None, progress: float, *, cancel_requested: bool) -> str:
    """Where a job is, for a reader."""
    if status == "completed":
        return "Completed."
    if status == "failed":
        return f"Failed: {error}"
    if cancel_requested:
        return "It is being cancelled."
    if status == "running":
        return f"Running: {progress:.0%} done."
    return "It waits for a worker."

"""A queue with a kind of its own, beside the jobs of other tests."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from ai_hub.db.transactions import transaction
from ai_hub.jobs import queue
from ai_hub.jobs.queue import Job
from ai_hub.jobs.worker import DEFAULT_RETRY, Lease, RetryStrategy, Worker
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Doubling:
    """A task: `{"number": 2}` gives `{"number": 4}`. What it has done is kept."""

    kind: str
    retry: RetryStrategy = DEFAULT_RETRY
    late_s: float = 0
    #: what cannot be undone
    results: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    done: list[UUID] = field(default_factory=list)
    cleaned: list[tuple[UUID, int]] = field(default_factory=list)
    on_run: Callable[[Job, Lease], None] = lambda _job, _lease: None
    on_clean: Callable[[], None] = lambda: None

    def attempt(self, job: Job) -> DoublingAttempt:
        return DoublingAttempt(self, job)

    def maintain(self) -> None:
        """Nothing."""


@dataclass
class DoublingAttempt:
    """Of a `Doubling`."""

    task: Doubling
    job: Job

    def clean(self) -> None:
        self.task.cleaned.append((self.job.job_id, self.job.fence))
        self.task.on_clean()

    def result(self) -> dict[str, Any] | None:
        return self.task.results.get(self.job.job_id)

    def run(self, lease: Lease) -> dict[str, Any]:
        self.task.on_run(self.job, lease)
        lease.confirm()
        self.task.done.append(self.job.job_id)
        return {"number": self.job.arguments["number"] * 2}


@dataclass
class Queue:
    """Jobs of one kind and two tenants, and a worker for them."""

    settings: Settings
    kind: str = field(default_factory=lambda: f"doubling-{secrets.token_hex(4)}")
    one: str = field(default_factory=lambda: f"one-{secrets.token_hex(4)}")
    two: str = field(default_factory=lambda: f"two-{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        self.task = Doubling(self.kind)
        self.worker = Worker(self.settings, [self.task], threading.Event())

    def defer(self, tenant: str, number: int = 1, **options: Any) -> UUID:
        job = queue.NewJob(uuid4(), self.kind, tenant, {"number": number}, **options)
        with transaction(self.settings, tenant) as connection:
            queue.defer(connection, job)
        return job.job_id

    def find(self, tenant: str, job_id: UUID) -> Job:
        with transaction(self.settings, tenant) as connection:
            return queue.find(connection, tenant, job_id)

    def change(self, job_id: UUID, assignments: str) -> None:
        """Change the row behind the job's back."""
        with transaction(self.settings) as connection:
            connection.execute(f"UPDATE jobs SET {assignments} WHERE job_id = %s".encode(), [job_id])  # noqa: S608


@pytest.fixture
def jobs(database: str) -> Iterator[Queue]:
    found = Queue(Settings(timescale_dsn=database))
    yield found
    with transaction(found.settings) as connection:
        connection.execute("DELETE FROM jobs WHERE kind = %s", [found.kind])

"""Export jobs of a test, with its own folder for the files."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ai_hub.db.transactions import transaction
from ai_hub.exports import service
from ai_hub.exports.export import KIND, Export, Request, find_export
from ai_hub.exports.task import ExportTask
from ai_hub.jobs import queue
from ai_hub.jobs.worker import Worker
from ai_hub.settings import Settings
from support.energy import Energy  # of a dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from ai_hub.jobs.queue import Job


@dataclass
class ExportLab:
    """Submits and does jobs in this process; one worker for all of them."""

    energy: Energy
    settings: Settings
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    submitted: list[Export] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = ExportTask(self.settings)
        self.worker = Worker(self.settings, [self.task], self.stop)

    def request(self, hours: int = 48, **options: Any) -> Request:
        end = self.energy.now
        given = {"tenant": self.energy.main, "feature_set": "forecast_basic"} | options
        return Request(**{"start": end - timedelta(hours=hours), "end": end} | given)

    def submit(self, request: Request, key: str | None = None) -> Export:
        job = service.submit(self.settings, request, key=key)
        self.submitted.append(job)
        return job

    def forget(self) -> None:
        """Leave no job to other tests' workers, and no path taken."""
        for job in self.submitted:
            self.change(job, "status = 'failed', error = 'of a test'")

    def acquire(self, job: Export, holder: str = "lab") -> Job | None:
        return queue.acquire(self.settings, holder, [KIND], job_id=job.export_id)

    def work(self, job: Export, on_chunk: Callable[[int, int], None] | None = None) -> Export:
        """Acquire the job, do it, and return what has become of it."""
        acquired = self.acquire(job)
        assert acquired is not None
        return self.run(acquired, on_chunk)

    def run(self, acquired: Job, on_chunk: Callable[[int, int], None] | None = None) -> Export:
        self.task.on_chunk = on_chunk or (lambda _done, _total: None)
        self.worker.run_job(acquired)
        with transaction(self.settings) as connection:
            return find_export(connection, acquired.tenant_id, acquired.job_id)

    def run_once(self) -> None:
        """What a worker does that finds the queue as it is."""
        self.task.on_chunk = lambda _done, _total: None
        self.worker.run(once=True)

    def export(self, request: Request) -> Export:
        """A completed job."""
        job = self.work(self.submit(request))
        assert job.status == "completed", job.error
        return job

    def find(self, job: Export) -> Export:
        with transaction(self.settings) as connection:
            return find_export(connection, job.tenant_id, job.export_id)

    def change(self, job: Export, assignments: str) -> None:
        """Change the row behind the job's back."""
        with transaction(self.settings) as connection:
            connection.execute(
                f"UPDATE jobs SET {assignments} WHERE job_id = %s".encode(),  # noqa: S608
                [job.export_id],
            )

    def files(self) -> set[str]:
        """Every file below the folder, hidden ones, too."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def table(self, job: Export) -> pa.Table:
        """Rows of a job that is one local file."""
        return pq.ParquetFile(job.storage_path).read()


def selected(settings: Settings, request: Request) -> list[dict[str, Any]]:
    """What a plain SELECT from the feature set's view gives, in the order of an export."""
    query = (
        f"SELECT * FROM {request.feature_set}_features WHERE tenant_id = %s"  # noqa: S608  # a test's own name
        " AND event_timestamp >= %s AND event_timestamp < %s AND (%s::text[] IS NULL OR asset_id = ANY(%s))"
        ' ORDER BY asset_id COLLATE "C", event_timestamp'
    ).encode()
    assets = None if request.assets is None else list(request.assets)
    with transaction(settings) as connection:
        cursor = connection.execute(query, [request.tenant, request.start, request.end, assets, assets])
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

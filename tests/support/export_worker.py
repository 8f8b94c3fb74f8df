"""A worker in the test's own process that does exports."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ai_hub.exports.task import ExportTask
from ai_hub.jobs.worker import Worker

if TYPE_CHECKING:
    from ai_hub.exports.export import Export
    from ai_hub.settings import Settings


def worker_of(settings: Settings, stop: threading.Event | None = None) -> Worker:
    return Worker(settings, [ExportTask(settings)], stop or threading.Event())


def complete(settings: Settings, export: Export) -> None:
    """Do this export, whatever else waits."""
    worker = worker_of(settings)
    job = worker.acquire(export.export_id)
    assert job is not None
    assert worker.run_job(job) == "completed"

"""`ai-hub worker` and `ai-hub jobs`: durable jobs of every kind."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.jobs.queue import Job
    from ai_hub.jobs.worker import Task

jobs_app = typer.Typer(
    name="jobs", no_args_is_help=True, help="Durable jobs, such as exports and training anew."
)
app.add_typer(jobs_app)
JobId = Annotated[UUID, typer.Argument(help="as `ai-hub jobs list` shows it")]
Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the job")]


class Status(StrEnum):
    """Where a job can be."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Kind(StrEnum):
    """What a worker can do."""

    EXPORT = "export"
    RETRAIN = "retrain"


@app.command("worker")
@app.command("export-worker", hidden=True)  # its name while exports were the only jobs
def worker_command(
    *,
    once: Annotated[bool, typer.Option("--once", help="exit when no job is pending")] = False,
    while_stdin_open: Annotated[
        bool, typer.Option("--while-stdin-open", help="exit when standard input is closed")
    ] = False,
    kind: Annotated[
        list[Kind] | None, typer.Option("--kind", help="only such jobs; may be repeated [default: all]")
    ] = None,
) -> None:
    """Run the jobs of all tenants until stopped; SIGTERM requeues a running job within ten seconds.

    The process itself ends with the step of a training that it is at. Without MLFLOW_TRACKING_URI nothing is
    trained.
    """
    from ai_hub.api import logs
    from ai_hub.exports.task import ExportTask
    from ai_hub.forecasting.retrain_task import RetrainTask
    from ai_hub.jobs.worker import Worker
    from ai_hub.settings import ServiceSettings

    logs.configure(ServiceSettings())
    settings = common.settings()
    with interruptible() as stop:
        if while_stdin_open:
            threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
        tasks: list[Task] = [ExportTask(settings)]
        if settings.mlflow_tracking_uri:
            tasks.append(RetrainTask(settings))
        chosen = [task for task in tasks if not kind or task.kind in kind]
        Worker(settings, chosen, stop).run(once=once)


@jobs_app.command("list")
def list_command(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="only this tenant (default: all)")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="only this kind, such as export")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="only jobs of this status")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="show at most this many")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="skip this many")] = 0,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from ai_hub.db.transactions import transaction
    from ai_hub.jobs import queue

    with transaction(common.settings(), tenant) as connection:
        jobs, total = queue.newest(
            connection, tenant=tenant, kind=kind, status=status, limit=limit, offset=offset
        )
    if as_json:
        brief = [_as_dict(job) for job in jobs]
        for row in brief:
            del row["arguments"], row["result"]
        typer.echo(json.dumps(brief))
        return
    if not jobs:
        typer.echo("There are no such jobs.")
        return
    columns = ("job", "kind", "tenant", "created", "tries")
    table = Table(
        *(Column(name, no_wrap=name == "job") for name in columns),
        Column("state", overflow="fold"),
        box=SIMPLE_HEAD,
    )
    for job in jobs:
        created = f"{job.created_at:%Y-%m-%d %H:%M}"
        table.add_row(str(job.job_id), job.kind, job.tenant_id, created, str(job.attempts), job.message)
    common.console().print(table)
    if (older := total - offset - len(jobs)) > 0:
        typer.echo(f"… and {older} older ones (--limit, --offset)")


@jobs_app.command("show")
def show_command(job_id: JobId, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a job with its arguments, and its result or error."""
    from ai_hub.db.transactions import transaction
    from ai_hub.jobs import queue

    with transaction(common.settings(), tenant) as connection:
        job = queue.find(connection, tenant, job_id)
    fields = _as_dict(job)
    if as_json:
        typer.echo(json.dumps(fields))
        return
    for name, value in fields.items():
        if value is not None:
            typer.echo(f"{name}: {json.dumps(value) if isinstance(value, dict) else value}")


@jobs_app.command("cancel")
def cancel_command(job_id: JobId, *, tenant: Tenant) -> None:
    """Cancel a job: a pending one at once, a running one within seconds."""
    from ai_hub.db.transactions import transaction
    from ai_hub.jobs import queue

    with transaction(common.settings(), tenant) as connection:
        job = queue.cancel(connection, tenant, job_id)
    typer.echo(f"{job_id}: {job.message}")


@jobs_app.command("retry")
def retry_command(job_id: JobId, *, tenant: Tenant) -> None:
    """Put a failed or cancelled job into the queue again."""
    from ai_hub.db.transactions import transaction
    from ai_hub.exports import service
    from ai_hub.exports.export import KIND
    from ai_hub.jobs import queue

    settings = common.settings()
    with transaction(settings, tenant) as connection:
        is_export = queue.find(connection, tenant, job_id).kind == KIND
        if not is_export:
            queue.retry(connection, tenant, job_id)
    if is_export:  # its path may be another's by now
        service.retry(settings, tenant, job_id)
    with transaction(settings, tenant) as connection:
        typer.echo(f"{job_id}: {queue.find(connection, tenant, job_id).message}")


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    # not through Python's buffer, whose lock a thread that waits holds when the process ends
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _as_dict(job: Job) -> dict[str, Any]:
    def plain_value(value: object) -> object:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    fields = {
        name: value if value is None or isinstance(value, str | int | float | dict) else plain_value(value)
        for name, value in asdict(job).items()
    }
    return fields | {"message": job.message}

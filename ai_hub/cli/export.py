# ruff: noqa: PLC0415 - Feast and pyarrow load only in the commands that need them
"""`ai-hub export`, `ai-hub exports`, `ai-hub export-worker`: features as Parquet files."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import typer
from rich.filesize import decimal

from ai_hub.cli import progress
from ai_hub.cli.main import app
from ai_hub.cli.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai_hub.exports.jobs import Job
    from ai_hub.settings import Settings

_LOOK_S = 0.5
#: Where sessions share one backend, a renewal can wait behind the statement that this process waits for, too:
#: another's job is taken over when it is found overdue for so long.
_OVERDUE_S = 2.5
_INTERRUPTED = 130
_FAILED = 1

exports_app = typer.Typer()
app.add_typer(exports_app, name="exports")
ExportId = Annotated[UUID, typer.Argument(help="as `ai-hub exports` lists it")]
Tenant = Annotated[str, typer.Option("--tenant", help="whose features")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


class PartitionBy(StrEnum):
    """How an export can be divided."""

    MONTH = "month"


@app.command("export")
def export_command(
    *,
    tenant: Tenant,
    feature_set: Annotated[
        str, typer.Option("--feature-set", help="feature service, such as forecast_advanced")
    ],
    start: Annotated[str, typer.Option("--start", help="first hour, such as 2026-01-01")],
    end: Annotated[str, typer.Option("--end", help="end, not included")],
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="only this one; may be repeated (default: all)")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="path below the tenant's folder of EXPORT_STORAGE_PATH")
    ] = None,
    partition_by: Annotated[
        PartitionBy | None, typer.Option("--partition-by", help="a folder with one file a month")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a feature service's rows as Parquet. Ctrl-C cancels it, unless others had asked for it."""
    from ai_hub.api import logs
    from ai_hub.exports.request import Request
    from ai_hub.exports.submission import submit
    from ai_hub.settings import ServiceSettings, Settings

    settings = Settings()
    request = Request(
        tenant,
        feature_set,
        parse_time(start, "--start"),
        parse_time(end, "--end"),
        tuple(asset) if asset else None,
        output,
        None if partition_by is None else "month",
    )
    new = uuid4()
    job = submit(settings, request, requested_by="ai-hub export", export_id=new)
    # standard output is the result's
    logs.configure(ServiceSettings(log_format="console", log_level="warning"), sys.stderr)
    with _interruptible() as stop, _bar(quiet=as_json) as on_progress:
        job = _follow(job, stop, on_progress, own=job.export_id == new)
    typer.echo(json.dumps(_as_dict(job)) if as_json else _line(job))
    if stop.is_set():
        raise typer.Exit(_INTERRUPTED)
    if job.status != "completed":
        raise typer.Exit(_FAILED)


@exports_app.callback(invoke_without_command=True)
def exports_command(
    context: typer.Context,
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="whose exports")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="the newest so many")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="leave out so many of them")] = 0,
    as_json: AsJson = False,
) -> None:
    """List a tenant's exports, newest first; fetch or delete one."""
    if context.invoked_subcommand is not None:
        return
    if tenant is None:
        raise typer.BadParameter("Whose exports? Give --tenant.", param_hint="--tenant")
    from ai_hub.api.schemas.exports import ExportSummary
    from ai_hub.exports.database import transaction
    from ai_hub.exports.jobs import newest
    from ai_hub.settings import Settings

    with transaction(Settings(), tenant) as connection:
        found, total = newest(connection, tenant, limit=limit, offset=offset)
    if as_json:
        typer.echo(json.dumps([ExportSummary.of(job).model_dump(mode="json") for job in found]))
        return
    for job in found:
        typer.echo(_line(job))
    if (older := total - offset - len(found)) > 0:
        typer.echo(f"… and {older} older ones (--limit, --offset)")


@exports_app.command("download")
def download_command(
    export_id: ExportId,
    *,
    tenant: Tenant,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="file, or folder of a partitioned one (default: its own name)"),
    ] = None,
) -> None:
    """Copy the files of a completed export here, from wherever EXPORT_STORAGE_PATH leads to."""
    from ai_hub.exports import files, jobs
    from ai_hub.exports.database import transaction
    from ai_hub.settings import Settings

    settings = Settings()
    with transaction(settings, tenant) as connection:
        job = jobs.find(connection, tenant, export_id)
    for place in files.copied(settings, job, output or Path(Path(job.output_path).name)):
        typer.echo(str(place))


@exports_app.command("delete")
def delete_command(export_id: ExportId, *, tenant: Tenant) -> None:
    """Delete an export that has ended, with its files."""
    from ai_hub.exports import files
    from ai_hub.settings import Settings

    _, removed = files.delete(Settings(), tenant, export_id)
    typer.echo(f"{export_id}: deleted with {len(removed)} files")


@app.command("export-worker")
def export_worker_command(
    *,
    once: Annotated[bool, typer.Option("--once", help="end when no job waits")] = False,
    while_stdin_open: Annotated[
        bool, typer.Option("--while-stdin-open", help="end with the process that holds standard input")
    ] = False,
) -> None:
    """Work through the export jobs of all tenants until stopped; SIGTERM gives a job under way back."""
    from ai_hub.api import logs
    from ai_hub.exports.worker import run
    from ai_hub.settings import ServiceSettings

    logs.configure(ServiceSettings())
    with _interruptible() as stop:
        if while_stdin_open:
            threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
        run(stop, once=once)


def _follow(job: Job, stop: threading.Event, on_progress: Callable[[float], None], *, own: bool) -> Job:
    """Do the job here, or watch the worker that has it, until it has ended; a stop cancels an `own` one."""
    from ai_hub.errors import ConflictError
    from ai_hub.exports import claims, jobs, submission, worker
    from ai_hub.exports.attempt import Attempts
    from ai_hub.exports.database import transaction
    from ai_hub.settings import Settings

    settings, me = Settings(), worker.name()
    here = Attempts(settings, stop, on_chunk=lambda done, total: on_progress(done / total))
    turn = _Turn()
    while not job.is_finished:
        if stop.is_set():
            if not own:
                return job
            try:
                return submission.cancel(settings, job.tenant_id, job.export_id)
            except ConflictError:
                pass  # it has ended at the same moment
        elif turn.has_come(settings, job) and (mine := claims.claim(settings, me, job.export_id)):
            here.make(mine)
        with transaction(settings, job.tenant_id) as connection:
            job = jobs.find(connection, job.tenant_id, job.export_id)
        if not job.is_finished:
            on_progress(job.progress)
            stop.wait(_LOOK_S)
    return job


class _Turn:
    """Whether a job that is followed may be done here."""

    def __init__(self) -> None:
        self._overdue_since: float | None = None

    def has_come(self, settings: Settings, job: Job) -> bool:
        from ai_hub.exports import claims

        if job.status == "pending":
            return True
        if not claims.is_overdue(settings, job):
            self._overdue_since = None
            return False
        if self._overdue_since is None:
            self._overdue_since = time.monotonic()
        return time.monotonic() - self._overdue_since > _OVERDUE_S


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[float], None]]:
    with progress.bar(quiet=quiet) as bar:
        task = bar.add_task("export", total=1.0)
        yield lambda done: bar.update(task, completed=done)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    # not through Python's buffer, whose lock a thread that waits holds when the process ends
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _line(job: Job) -> str:
    window = f"{job.start_time:%Y-%m-%d %H:%M} to {job.end_time:%Y-%m-%d %H:%M}"
    line = f"{job.export_id}  {job.feature_set}  {window}  {job.message}"
    if job.storage_path and job.file_size_bytes is not None:
        line += f" {decimal(job.file_size_bytes)} in {job.storage_path}"
    return line


def _as_dict(job: Job) -> dict[str, object]:
    from ai_hub.api.schemas.exports import ExportJob

    return ExportJob.of(job).model_dump(mode="json")

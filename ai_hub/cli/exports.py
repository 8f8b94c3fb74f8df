"""`ai-hub export` and `ai-hub exports`."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import typer
from rich.filesize import decimal

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.jobs import interruptible
from ai_hub.cli.main import app

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from ai_hub.exports.export import Export
    from ai_hub.settings import Settings


_LOOK_S = 0.5
#: Where sessions share one backend, a renewal can wait behind the statement that this process waits for, too:
#: another's job is taken over when it is found stalled for so long.
_STALLED_S = 2.5
_INTERRUPTED = 130
_FAILED = 1

exports_app = typer.Typer()
app.add_typer(exports_app, name="exports")
ExportId = Annotated[UUID, typer.Argument(help="as `ai-hub exports` lists it")]
Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the features")]


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
    """Export a feature service's rows as Parquet. Ctrl-C cancels it, unless somebody else requested it."""
    from ai_hub.api import logs
    from ai_hub.exports.export import Request
    from ai_hub.exports.service import submit
    from ai_hub.settings import ServiceSettings

    settings = common.settings()
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
    with interruptible() as stop, _bar(quiet=as_json) as on_progress:
        job = _follow(job, stop, on_progress, own=job.export_id == new)
    typer.echo(json.dumps(_as_dict(job)) if as_json else _line(job))
    if stop.is_set():
        raise typer.Exit(_INTERRUPTED)
    if job.status != "completed":
        raise typer.Exit(_FAILED)


@exports_app.callback(invoke_without_command=True)
def exports_command(
    group: typer.Context,
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="tenant of the exports")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="show at most this many")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="skip this many")] = 0,
    as_json: AsJson = False,
) -> None:
    """List a tenant's exports, newest first; fetch or delete one."""
    if group.invoked_subcommand is not None:
        return
    if tenant is None:
        raise typer.BadParameter("Whose exports? Give --tenant.", param_hint="--tenant")
    from ai_hub.api.schemas.exports import ExportSummary
    from ai_hub.db.transactions import transaction
    from ai_hub.exports.export import newest_exports

    with transaction(common.settings(), tenant) as connection:
        exports, total = newest_exports(connection, tenant, limit=limit, offset=offset)
    if as_json:
        typer.echo(json.dumps([ExportSummary.of(export).model_dump(mode="json") for export in exports]))
        return
    for export in exports:
        typer.echo(_line(export))
    if (older := total - offset - len(exports)) > 0:
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
    from ai_hub.db.transactions import transaction
    from ai_hub.exports import files
    from ai_hub.exports.export import find_export

    settings = common.settings()
    with transaction(settings, tenant) as connection:
        export = find_export(connection, tenant, export_id)
    for place in files.copy_files(settings, export, output or Path(Path(export.output_path).name)):
        typer.echo(str(place))


@exports_app.command("delete")
def delete_command(export_id: ExportId, *, tenant: Tenant) -> None:
    """Delete an export that has ended, with its files."""
    from ai_hub.exports import files

    _, removed = files.delete(common.settings(), tenant, export_id)
    typer.echo(f"{export_id}: deleted with {len(removed)} files")


def _follow(
    export: Export, stop: threading.Event, on_progress: Callable[[float], None], *, own: bool
) -> Export:
    """Do the export here, or watch its worker, until it has ended; a stop cancels an `own` one."""
    from ai_hub.db.transactions import transaction
    from ai_hub.errors import ConflictError
    from ai_hub.exports import service
    from ai_hub.exports.export import find_export
    from ai_hub.exports.task import ExportTask
    from ai_hub.jobs.worker import Worker

    settings = common.settings()
    task = ExportTask(settings, on_chunk=lambda done, total: on_progress(done / total))
    worker = Worker(settings, [task], stop)
    turn = _Turn()
    while not export.is_finished:
        if stop.is_set():
            if not own:
                return export
            try:
                return service.cancel(settings, export.tenant_id, export.export_id)
            except ConflictError:
                pass  # it has ended at the same moment
        elif turn.has_come(settings, export) and (job := worker.acquire(export.export_id)):
            worker.run_job(job)
        with transaction(settings, export.tenant_id) as connection:
            export = find_export(connection, export.tenant_id, export.export_id)
        if not export.is_finished:
            on_progress(export.progress)
            stop.wait(_LOOK_S)
    return export


class _Turn:
    """Whether an export that is followed may be done here."""

    def __init__(self) -> None:
        self._stalled_since: float | None = None

    def has_come(self, settings: Settings, export: Export) -> bool:
        from ai_hub.jobs import queue

        if export.status == "pending":
            return True
        if not queue.is_stalled(settings, export.export_id):
            self._stalled_since = None
            return False
        if self._stalled_since is None:
            self._stalled_since = time.monotonic()
        return time.monotonic() - self._stalled_since > _STALLED_S


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[float], None]]:
    with common.progress_bar(quiet=quiet) as bar:
        task = bar.add_task("export", total=1.0)
        yield lambda done: bar.update(task, completed=done)


def _line(export: Export) -> str:
    window = f"{export.start_time:%Y-%m-%d %H:%M} to {export.end_time:%Y-%m-%d %H:%M}"
    line = f"{export.export_id}  {export.feature_set}  {window}  {export.message}"
    if export.storage_path and export.file_size_bytes is not None:
        line += f" {decimal(export.file_size_bytes)} in {export.storage_path}"
    return line


def _as_dict(export: Export) -> dict[str, object]:
    from ai_hub.api.schemas.exports import ExportJob

    return ExportJob.of(export).model_dump(mode="json")

"""The task that writes exports: feature rows from the database into files of a target."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ai_hub.db.connection import shares_backend
from ai_hub.db.transactions import transaction
from ai_hub.exports import files
from ai_hub.exports.export import KIND, Export, file_of_month, find_export
from ai_hub.exports.locations import Target, target_of
from ai_hub.jobs.worker import DEFAULT_RETRY, RetryStrategy
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator

    import pyarrow as pa
    from feast import FeatureStore

    from ai_hub.exports import parquet
    from ai_hub.exports.reading import Chunk, Interrupt, Plan, Reader
    from ai_hub.jobs.queue import Job
    from ai_hub.jobs.worker import Lease


@dataclass
class ExportTask:
    """See `ai_hub.jobs.worker.Task`."""

    settings: Settings
    #: called with the chunks that are done and their total
    on_chunk: Callable[[int, int], None] = lambda _done, _total: None
    kind: str = field(default=KIND, init=False)
    retry: RetryStrategy = field(default=DEFAULT_RETRY, init=False)
    late_s: float = field(default=0, init=False)
    #: a `FeatureStore`, when the first export is made
    _store: Any = field(default=None, init=False)

    def attempt(self, job: Job) -> ExportAttempt:
        """See `Task.attempt`.

        Raises:
            AiHubError: the export's place is unusable.
        """
        with transaction(self.settings) as connection:
            export = find_export(connection, job.tenant_id, job.job_id)
        # another worker may have acquired it meanwhile
        export = replace(export, fence=job.fence)
        return ExportAttempt(self, export, target_of(self.settings, export))

    def maintain(self) -> None:
        """Remove the files of old exports."""
        files.expire(self.settings)

    def store(self) -> FeatureStore:
        """The feature store as it was applied last."""
        from ai_hub.features.store import open_store  # noqa: PLC0415  # see `ExportAttempt.run`

        if self._store is None:
            self._store = open_store(self.settings)
        self._store.refresh_registry()
        store: FeatureStore = self._store
        return store


@dataclass(frozen=True)
class ExportAttempt:
    """See `ai_hub.jobs.worker.Attempt`."""

    task: ExportTask
    export: Export
    target: Target

    def clean(self) -> None:
        """Remove unfinished files, and finished ones that were not recorded."""
        self.target.clean()

    def result(self) -> None:
        """What is not recorded is removed."""

    def run(self, lease: Lease) -> dict[str, Any]:
        """Write all files and make them appear together."""
        # Feast takes a second and a half, which a worker without exports need not spend
        from ai_hub.exports import parquet  # noqa: PLC0415
        from ai_hub.exports.reading import Interrupt  # noqa: PLC0415

        interrupt = Interrupt()
        lease.on_end(interrupt.request)

        def on_chunk(done: int, total: int) -> None:
            lease.progress = done / total
            self.task.on_chunk(done, total)
            lease.check()

        store = self.task.store()
        lease.check()
        with transaction(self.task.settings) as connection:
            shared = shares_backend(connection)
        written, plan, unstored = _write(
            store, self.export, self.target, interrupt, on_chunk, shared_backend=shared
        )
        partitioned = self.export.partition_by is not None
        lease.confirm()
        place = self.target.publish(parquet.manifest(written) if partitioned else None)
        summary = parquet.summary(written, place, partitioned=partitioned)
        return {name: value for name, value in asdict(summary).items() if value is not None} | {
            "service_version": plan.version,
            "unstored_rows": unstored,
        }


def _write(
    store: FeatureStore,
    export: Export,
    target: Target,
    interrupt: Interrupt,
    on_chunk: Callable[[int, int], None],
    *,
    shared_backend: bool,
) -> tuple[list[parquet.File], Plan, int]:
    """Write all files, none of them visible yet; calls `on_chunk(done, total)` after each chunk.

    Returns the files, the plan, and how many of the rows are not stored.
    """
    from ai_hub.exports import parquet  # noqa: PLC0415  # see `ExportAttempt.run`
    from ai_hub.exports.reading import open_reader, plan_of  # noqa: PLC0415

    request = export.request
    plan = plan_of(store, export.feature_set, (request.start, request.end))
    by_month = request.partition_by == "month"
    written: list[parquet.File] = []
    with open_reader(
        store.config, plan, request, interrupt, by_month=by_month, shared_backend=shared_backend
    ) as reader:
        schema = reader.schema.with_metadata(_metadata(export, plan, reader))
        done = 0
        for path, group in groupby(reader.chunks, key=lambda chunk: _path(chunk, by_month=by_month)):
            with ExitStack() as stack:
                writer = None
                for rows in stack.enter_context(closing(_tables(reader, list(group)))):
                    if writer is None and (len(rows) or not by_month):
                        writer = stack.enter_context(parquet.file(target, path, schema, written))
                    if writer is not None:
                        writer.write(rows)
                    done += 1
                    on_chunk(done, len(reader.chunks))
        if not written:
            # nothing in the window: a file that says so
            empty = file_of_month(f"{request.start:%Y-%m}") if by_month else ""
            with parquet.file(target, empty, schema, written):
                pass
    return written, plan, reader.unstored_rows


def _tables(reader: Reader, chunks: list[Chunk]) -> Generator[pa.Table]:
    """Tables of the chunks; while one is being written the next is read."""
    with ThreadPoolExecutor(1, "reader") as pool:
        following = pool.submit(reader.read, chunks[0])
        for number in range(1, len(chunks) + 1):
            table = following.result()
            if number < len(chunks):
                following = pool.submit(reader.read, chunks[number])
            yield table


def _path(chunk: Chunk, *, by_month: bool) -> str:
    return file_of_month(chunk.month) if by_month else ""


def _metadata(export: Export, plan: Plan, reader: Reader) -> dict[bytes, bytes]:
    facts = {
        "export_id": export.export_id,
        "fence": export.fence,
        "tenant_id": export.tenant_id,
        "feature_service": plan.service,
        "feature_service_version": plan.version,
        "start_time": export.start_time.isoformat(),
        "end_time": export.end_time.isoformat(),
        "created_at": export.created_at.isoformat(),
        "unstored_rows": reader.unstored_rows,
    }
    return {f"ai_hub.{name}".encode(): str(value).encode() for name, value in facts.items()}

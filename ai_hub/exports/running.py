"""One attempt at an export job, from the database into its files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import groupby
from typing import TYPE_CHECKING

from ai_hub.exports import writing
from ai_hub.exports.chunks import file_of_month
from ai_hub.exports.plan import plan_of
from ai_hub.exports.reading import Interrupt, open_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import pyarrow as pa
    from feast import FeatureStore

    from ai_hub.exports.chunks import Chunk
    from ai_hub.exports.jobs import Job
    from ai_hub.exports.plan import Plan
    from ai_hub.exports.reading import Reader
    from ai_hub.exports.targets import Target


def write(
    store: FeatureStore,
    job: Job,
    target: Target,
    interrupt: Interrupt,
    on_chunk: Callable[[int, int], None],
    *,
    shared_backend: bool,
) -> tuple[list[writing.File], Plan]:
    """Write all files of a job, none of them visible yet; calls `on_chunk(done, total)` after each chunk."""
    request = job.request
    plan = plan_of(store, job.feature_set, (request.start, request.end))
    by_month = request.partition_by == "month"
    files: list[writing.File] = []
    with open_reader(
        store.config, plan, request, interrupt, by_month=by_month, shared_backend=shared_backend
    ) as reader:
        schema = reader.schema.with_metadata(_metadata(job, plan))
        done = 0
        for path, group in groupby(reader.chunks, key=lambda chunk: _path(chunk, by_month=by_month)):
            with ExitStack() as stack:
                writer = None
                for rows in stack.enter_context(closing(_tables(reader, list(group)))):
                    if writer is None and (len(rows) or not by_month):
                        writer = stack.enter_context(writing.file(target, path, schema, files))
                    if writer is not None:
                        writer.write(rows)
                    done += 1
                    on_chunk(done, len(reader.chunks))
        if not files:
            # nothing in the window: a file that says so
            empty = file_of_month(f"{request.start:%Y-%m}") if by_month else ""
            with writing.file(target, empty, schema, files):
                pass
    return files, plan


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


def _metadata(job: Job, plan: Plan) -> dict[bytes, bytes]:
    facts = {
        "export_id": job.export_id,
        "fence": job.fence,
        "tenant_id": job.tenant_id,
        "feature_service": plan.service,
        "feature_service_version": plan.version,
        "start_time": job.start_time.isoformat(),
        "end_time": job.end_time.isoformat(),
        "created_at": job.created_at.isoformat(),
    }
    return {f"ai_hub.{name}".encode(): str(value).encode() for name, value in facts.items()}

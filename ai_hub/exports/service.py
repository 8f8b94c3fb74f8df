"""Exports are submitted, cancelled and retried here; `ExportService` does it in an event loop.

There, database work runs in threads, and one poll serves all requests that wait for an export.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
import psycopg
import structlog

from ai_hub.db.transactions import transaction
from ai_hub.errors import AiHubError, ConflictError, NotFoundError
from ai_hub.exports.export import (
    KIND,
    Export,
    PathTakenError,
    TooManyExportsError,
    find_export,
    find_exports,
    newest_exports,
)
from ai_hub.exports.locations import check_location, is_gone
from ai_hub.features.store import find_service
from ai_hub.jobs import queue
from ai_hub.jobs.queue import JobCounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from ai_hub.exports.export import Request
    from ai_hub.exports.files import File, OpenedFile
    from ai_hub.settings import Settings


# submissions of one tenant go one after another, so that none misses what another is about to insert
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('feature_exports ' || %s, 0))"
_KEYLESS = """
SELECT export_id FROM feature_exports
WHERE tenant_id = %s AND status IN ('pending', 'running')
    AND request_hash = %s AND idempotency_key IS NULL AND NOT cancel_requested
ORDER BY created_at LIMIT 1
"""
# written before they were registered, readings have a span only
_UNKNOWN_ASSETS = """
SELECT asset_id FROM unnest(%(assets)s::text[]) AS requested (asset_id)
WHERE NOT EXISTS (
        SELECT FROM assets WHERE assets.tenant_id = %(tenant)s AND assets.asset_id = requested.asset_id
    )
    AND NOT EXISTS (
        SELECT FROM asset_spans AS spans
        WHERE spans.tenant_id = %(tenant)s AND spans.asset_id = requested.asset_id
    )
ORDER BY asset_id LIMIT 5
"""
# a file cannot be in the folder of another export either
_AT_PATH = """
FROM feature_exports
WHERE tenant_id = %(tenant)s AND status <> 'failed' AND expired_at IS NULL AND (
    output_path = %(path)s
    OR starts_with(output_path, %(path)s || '/') OR starts_with(%(path)s, output_path || '/')
)
"""
_TAKEN = f"""
SELECT export_id {_AT_PATH} AND (status <> 'completed' OR storage_path <> ALL(%(gone)s)) LIMIT 1
"""  # constants
_PLACES = f"SELECT DISTINCT storage_path {_AT_PATH} AND status = 'completed' LIMIT 20"
_COUNT = "SELECT count(*) FROM feature_exports WHERE tenant_id = %s AND status IN ('pending', 'running')"


def submit(
    settings: Settings,
    request: Request,
    *,
    key: str | None = None,
    requested_by: str | None = None,
    export_id: UUID | None = None,
) -> Export:
    """The job for a request: a new one, or the one that it is already.

    With the same `key` the same request is the same job for ever. Without one, a request that equals that of
    an unfinished job without a key is this job. A new one gets `export_id`.

    Raises:
        BadInputError: window or path cannot be used.
        NotFoundError: there is no such feature service, or the tenant lacks one of the assets.
        ConflictError: the key belongs to another request, or the path to another job.
        TooManyExportsError: the tenant has too many unfinished ones.
        ServiceDownError: a server does not answer.
    """
    request.check()
    check_location(settings, request)
    if key is not None:
        # a repetition is answered whatever has become of the feature set
        with transaction(settings, request.tenant) as connection:
            if existing := _existing_job(connection, request, key):
                return find_export(connection, request.tenant, existing)
    if find_service(request.feature_set, settings) is None:
        raise NotFoundError(
            f"There is no feature set {request.feature_set!r}.",
            hint="GET /ai/features/sets lists those there are.",
        )
    gone = _gone(settings, request)
    with transaction(settings, request.tenant) as connection:
        connection.execute(_ONE_AT_A_TIME, [request.tenant])
        if existing := _existing_job(connection, request, key):
            return find_export(connection, request.tenant, existing)
        _check_assets(connection, request)
        export_id = export_id or uuid4()
        placed = replace(request, output_path=request.path(export_id))
        _check_path(connection, placed, gone)
        _check_count(connection, request.tenant, settings.export_jobs_per_tenant)
        job = queue.NewJob(
            export_id,
            KIND,
            request.tenant,
            arguments=_arguments(placed, request.hash),
            queueing_lock=placed.output_path,
            idempotency_key=key,
            created_by=requested_by,
        )
        queue.defer(connection, job)
        return find_export(connection, request.tenant, export_id)


def cancel(settings: Settings, tenant: str, export_id: UUID) -> Export:
    """Cancel a job: one that waits at once, a running one as soon as its worker sees it, within seconds.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: it has ended otherwise.
        ServiceDownError: the database does not answer.
    """
    with transaction(settings, tenant) as connection:
        find_export(connection, tenant, export_id)
        queue.cancel(connection, tenant, export_id)
        return find_export(connection, tenant, export_id)


def retry(settings: Settings, tenant: str, export_id: UUID) -> Export:
    """Put a failed or cancelled job into the queue again, where a new one with its request would be taken.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: it has not failed, or its path belongs to another job by now.
        TooManyExportsError: the tenant has too many unfinished ones.
        ServiceDownError: a server does not answer.
    """
    with transaction(settings, tenant) as connection:
        request = find_export(connection, tenant, export_id).request
    gone = _gone(settings, request)
    with transaction(settings, tenant) as connection:
        connection.execute(_ONE_AT_A_TIME, [tenant])
        if find_export(connection, tenant, export_id).status == "failed":
            _check_path(connection, request, gone)
            _check_count(connection, tenant, settings.export_jobs_per_tenant)
        queue.retry(connection, tenant, export_id)
        return find_export(connection, tenant, export_id)


def _arguments(placed: Request, request_hash: str) -> dict[str, Any]:
    """The request as `feature_exports` reads it; `request_hash` is that of the request as it came."""
    arguments = {
        "feature_set": placed.feature_set,
        "start_time": placed.start.isoformat(),
        "end_time": placed.end.isoformat(),
        "asset_ids": None if placed.assets is None else list(placed.assets),
        "output_path": placed.output_path,
        "partition_by": placed.partition_by,
        "request_hash": request_hash,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _existing_job(connection: psycopg.Connection[Any], request: Request, key: str | None) -> UUID | None:
    if key is None:
        row = connection.execute(_KEYLESS, [request.tenant, request.hash]).fetchone()
        return row[0] if row else None
    row = connection.execute(
        "SELECT export_id, request_hash FROM feature_exports WHERE tenant_id = %s AND idempotency_key = %s",
        [request.tenant, key],
    ).fetchone()
    if row and row[1] != request.hash:
        raise ConflictError(
            f"The idempotency key {key!r} belongs to another request (export {row[0]}).",
            hint="Repeat that request unchanged, or use another key.",
        )
    return row[0] if row else None


def _check_assets(connection: psycopg.Connection[Any], request: Request) -> None:
    if request.assets is None:
        return
    missing = connection.execute(
        _UNKNOWN_ASSETS, {"assets": list(request.assets), "tenant": request.tenant}
    ).fetchall()
    if missing:
        names = ", ".join(asset for (asset,) in missing)
        raise NotFoundError(
            f"Tenant {request.tenant} has no asset {names}.", hint="`ai-hub asset list` shows those it has."
        )


def _gone(settings: Settings, request: Request) -> list[str]:
    """Places of completed exports in the way of this one, whose files have been deleted since."""
    if request.output_path is None:
        return []
    with transaction(settings, request.tenant) as connection:
        values = {"tenant": request.tenant, "path": request.output_path}
        places = connection.execute(_PLACES.encode(), values).fetchall()
    # looked for outside of the transaction: a store may take its time
    return [place for (place,) in places if place is not None and is_gone(settings, place)]


def _check_path(connection: psycopg.Connection[Any], request: Request, gone: list[str]) -> None:
    values = {"tenant": request.tenant, "path": request.output_path, "gone": gone}
    row = connection.execute(_TAKEN.encode(), values).fetchone()
    if row:
        raise PathTakenError(str(request.output_path), f"export {row[0]}")


def _check_count(connection: psycopg.Connection[Any], tenant: str, limit: int) -> None:
    row = connection.execute(_COUNT, [tenant]).fetchone()
    if row and row[0] >= limit:
        raise TooManyExportsError(tenant, limit)


_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
#: Database sessions of exports at once in one process.
_THREADS: Final = 4
_POLL_S: Final = (0.1, 1.0)
#: Of the requests that may be under way: those that wait for export, and of these one tenant's.
_WAITING_SHARE: Final = 2
_TENANT_SHARE: Final = 8


class ExportService:
    """Takes requests for exports, and tells how they are."""

    def __init__(self, settings: Settings, max_in_flight: int) -> None:
        self._settings = settings
        self._most_waiting = max(1, max_in_flight // _WAITING_SHARE)
        self._most_of_tenant = max(1, max_in_flight // _TENANT_SHARE)
        #: for Prometheus; read beside the scrapes
        self.counts = JobCounts(settings, [KIND])
        self._limiter = anyio.CapacityLimiter(_THREADS)
        #: by tenant and job
        self._waiting: dict[str, dict[UUID, list[asyncio.Future[Export]]]] = {}
        self._somebody = asyncio.Event()

    async def submit(self, request: Request, key: str | None, requested_by: str) -> Export:
        """See `submit`."""
        return await self._run(lambda: submit(self._settings, request, key=key, requested_by=requested_by))

    async def cancel(self, tenant: str, export_id: UUID) -> Export:
        """See `cancel`."""
        return await self._run(lambda: cancel(self._settings, tenant, export_id))

    async def files(self, tenant: str, export_id: UUID) -> tuple[Export, list[File]]:
        """The job, and the files it has written; see `files.list_files`."""

        def read() -> tuple[Export, list[File]]:
            from ai_hub.exports import files  # noqa: PLC0415  # libraries for files load when one is asked for

            export = self._find(tenant, export_id)
            return export, files.list_files(self._settings, export)

        return await self._run(read)

    async def open_file(self, tenant: str, export_id: UUID, path: str, part: str | None) -> OpenedFile:
        """One file, to be sent; see `files.open_file`."""

        def read() -> OpenedFile:
            from ai_hub.exports import files  # noqa: PLC0415  # see above

            return files.open_file(self._settings, self._find(tenant, export_id), path, part)

        return await self._run(read)

    async def delete(self, tenant: str, export_id: UUID) -> tuple[Export, list[str]]:
        """See `files.delete`."""

        def work() -> tuple[Export, list[str]]:
            from ai_hub.exports import files  # noqa: PLC0415  # see above

            return files.delete(self._settings, tenant, export_id)

        return await self._run(work)

    async def find(self, tenant: str, export_id: UUID) -> Export:
        """See `find_export`."""
        return await self._run(partial(self._find, tenant, export_id))

    async def newest(
        self, tenant: str, feature_set: str | None, status: str | None, limit: int, offset: int = 0
    ) -> tuple[list[Export], int]:
        """See `newest_exports`."""

        def read() -> tuple[list[Export], int]:
            with transaction(self._settings, tenant) as connection:
                return newest_exports(
                    connection,
                    tenant,
                    feature_set=feature_set,
                    status=status,
                    limit=limit,
                    offset=offset,
                )

        return await self._run(read)

    async def wait(
        self, export: Export, seconds: float, left: Callable[[], Coroutine[None, None, None]]
    ) -> Export:
        """The job when it has finished, or as it is after some seconds.

        At once where too many wait already, so that they leave room for other requests; and no longer than
        until `left` ends, because then nobody is there for the answer.
        """
        if export.is_finished or seconds <= 0 or self._is_full(export.tenant_id):
            return export
        finished: asyncio.Future[Export] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(export.tenant_id, {}).setdefault(export.export_id, []).append(finished)
        self._somebody.set()
        leaving = asyncio.create_task(left())
        try:
            either: set[asyncio.Future[Any]] = {finished, leaving}
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._forget(export, finished)
            leaving.cancel()
        if finished.done():
            return finished.result()
        if not leaving.done():
            # whoever has the job's id has what counts, should the database not answer now
            with suppress(AiHubError):
                return await self.find(export.tenant_id, export.export_id)
        return export

    async def poll(self) -> None:
        """Tell those who wait what has finished, for ever."""
        pause = _POLL_S[0]
        while True:
            if not self._waiting:
                self._somebody.clear()
                pause = _POLL_S[0]
                await self._somebody.wait()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _POLL_S[1])
            wanted = {tenant: list(waiting) for tenant, waiting in self._waiting.items()}
            for export in await self._run(partial(self._find_each, wanted)):
                if export.is_finished:
                    pause = _POLL_S[0]
                    for future in self._waiting.get(export.tenant_id, {}).get(export.export_id, ()):
                        if not future.done():
                            future.set_result(export)

    def _is_full(self, tenant: str) -> bool:
        counts = {each: sum(map(len, waiting.values())) for each, waiting in self._waiting.items()}
        return counts.get(tenant, 0) >= self._most_of_tenant or sum(counts.values()) >= self._most_waiting

    def _forget(self, export: Export, finished: asyncio.Future[Export]) -> None:
        waiting = self._waiting[export.tenant_id]
        waiting[export.export_id].remove(finished)
        if not waiting[export.export_id]:
            del waiting[export.export_id]
        if not waiting:
            del self._waiting[export.tenant_id]

    def _find(self, tenant: str, export_id: UUID) -> Export:
        with transaction(self._settings, tenant) as connection:
            return find_export(connection, tenant, export_id)

    def _find_each(self, export_ids_by_tenant: dict[str, list[UUID]]) -> list[Export]:
        exports: list[Export] = []
        for tenant, export_ids in export_ids_by_tenant.items():
            try:
                with transaction(self._settings, tenant) as connection:
                    exports += find_exports(connection, export_ids)
            except (AiHubError, psycopg.Error) as error:
                # whatever it is, it is not for ever, and not for the other tenants
                _log.warning("exports.read_failed", tenant=tenant, reason=str(error))
        return exports

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


@asynccontextmanager
async def open_exports(settings: Settings, max_in_flight: int) -> AsyncIterator[ExportService]:
    """Exports of a process that takes so many requests at once; tells those who wait until it is closed."""
    service = ExportService(settings, max_in_flight)
    polling = asyncio.create_task(service.poll(), name="exports")
    try:
        yield service
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling

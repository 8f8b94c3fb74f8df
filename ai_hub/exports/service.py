"""Exports for the event loop of the REST service: database work in threads, and one poll for all who wait."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread
import psycopg
import structlog

from ai_hub.database.transactions import transaction
from ai_hub.errors import AiHubError
from ai_hub.exports import submission
from ai_hub.exports.export import KIND, find_export, find_exports, newest_exports
from ai_hub.jobs.metrics import JobCounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from uuid import UUID

    from ai_hub.exports.export import Export
    from ai_hub.exports.files import File, OpenedFile
    from ai_hub.exports.request import Request
    from ai_hub.settings import Settings


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
        """See `submission.submit`."""
        return await self._run(
            lambda: submission.submit(self._settings, request, key=key, requested_by=requested_by)
        )

    async def cancel(self, tenant: str, export_id: UUID) -> Export:
        """See `submission.cancel`."""
        return await self._run(lambda: submission.cancel(self._settings, tenant, export_id))

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

    def _find_each(self, wanted: dict[str, list[UUID]]) -> list[Export]:
        found: list[Export] = []
        for tenant, export_ids in wanted.items():
            try:
                with transaction(self._settings, tenant) as connection:
                    found += find_exports(connection, export_ids)
            except (AiHubError, psycopg.Error) as error:
                # whatever it is, it is not for ever, and not for the other tenants
                _log.warning("exports.read_failed", tenant=tenant, reason=str(error))
        return found

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

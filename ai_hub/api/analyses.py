"""What the service computes of a tenant's series and models: a process for it, and answers that are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

import anyio
import anyio.to_process
import anyio.to_thread
from psycopg import sql

from ai_hub.api.errors import OverloadedError
from ai_hub.concurrency import FairSemaphore, LimitReachedError, run_in_background
from ai_hub.db.transactions import transaction
from ai_hub.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from ai_hub.settings import Settings

T = TypeVar("T")
Kind = Literal["anomalies", "explanation"]

#: Requests that may wait for the process, and seconds for which one may have it.
MAX_WAITING: Final = 32
LONGEST_S: Final = 60.0
_THREADS: Final = 2
_INSERT: Final = """
INSERT INTO analyses (analysis_id, tenant_id, kind, subject, method, answer, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_EXPIRE: Final = "DELETE FROM analyses WHERE tenant_id = %s AND created_at < now() - %s"
_FIND: Final = """
SELECT answer::text FROM analyses
WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND analysis_id = %(id)s AND created_at >= now() - %(kept)s
"""
_WHERE: Final = sql.SQL("""
WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND created_at >= now() - %(kept)s
    AND (%(subject)s::text IS NULL OR subject = %(subject)s)
    AND (%(method)s::text IS NULL OR method = %(method)s)
""")
_PAGE: Final = sql.SQL("""
SELECT {} FROM analyses {} ORDER BY created_at DESC, analysis_id LIMIT %(limit)s OFFSET %(offset)s
""")
_COUNT: Final = sql.SQL("SELECT count(*) FROM analyses {}")


class Analysis(NamedTuple):
    """An answer to keep."""

    analysis_id: UUID
    tenant: str
    kind: Kind
    #: the asset or the model
    subject: str
    method: str
    #: the answer's body, JSON
    answer: str
    created_at: datetime


class AnalysisRepository:
    """Answers, kept for `ANALYSIS_RETENTION_DAYS`; for the service's login, which sees one tenant."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept = timedelta(days=settings.analysis_retention_days)
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def save(self, analysis: Analysis) -> None:
        """Keep an answer; those of its tenant that are too old are deleted.

        Raises:
            ServiceDownError: the database does not answer.
        """

        def write() -> None:
            with transaction(self._settings, analysis.tenant) as connection:
                connection.execute(_EXPIRE, [analysis.tenant, self._kept])
                connection.execute(_INSERT, analysis)

        await anyio.to_thread.run_sync(write, limiter=self._limiter)

    async def find(self, tenant: str, kind: Kind, analysis_id: UUID) -> str:
        """The body of an answer, as it was sent.

        Raises:
            NotFoundError: the tenant has none of this id, or it is too old.
            ServiceDownError: the database does not answer.
        """
        values = {"tenant": tenant, "kind": kind, "id": analysis_id, "kept": self._kept}

        def read() -> Any:
            with transaction(self._settings, tenant) as connection:
                return connection.execute(_FIND, values).fetchone()

        row = await anyio.to_thread.run_sync(read, limiter=self._limiter)
        if row is None:
            raise NotFoundError(
                f"Tenant {tenant} has no {_NAMES[kind]} {analysis_id}.",
                hint=f"They are kept for {self._kept.days} days (ANALYSIS_RETENTION_DAYS).",
            )
        return str(row[0])

    async def read(self, call: Callable[[], T]) -> T:
        """The result of a call that waits for the database."""
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)

    async def newest(
        self,
        tenant: str,
        kind: Kind,
        fields: tuple[str, ...],
        *,
        subject: str | None,
        method: str | None,
        limit: int,
        offset: int,
    ) -> tuple[list[tuple[Any, ...]], int]:
        """These fields of a tenant's answers, newest first, and how many answers there are in all.

        Raises:
            ServiceDownError: the database does not answer.
        """
        values = {"tenant": tenant, "kind": kind, "kept": self._kept, "subject": subject, "method": method}
        columns = sql.SQL(", ").join(sql.SQL("answer -> {}").format(sql.Literal(name)) for name in fields)

        def read() -> tuple[list[tuple[Any, ...]], int]:
            with transaction(self._settings, tenant) as connection:
                rows = connection.execute(
                    _PAGE.format(columns, _WHERE), {**values, "limit": limit, "offset": offset}
                ).fetchall()
                count = connection.execute(_COUNT.format(_WHERE), values).fetchone()
            return rows, count[0] if count else 0

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)


_NAMES: Final[dict[Kind, str]] = {"anomalies": "detection of anomalies", "explanation": "explanation"}


class Computations:
    """Runs what takes the processor, one at a time in a process beside this one, round-robin over tenants.

    In a thread it would stop other requests: STL holds the interpreter's lock for all of its time. The
    process starts with the first request, imports what that needs, and ends with this one.
    """

    def __init__(self) -> None:
        self._turns = FairSemaphore(1, max_waiting=MAX_WAITING)
        # limited by the turns
        self._processes = anyio.CapacityLimiter(1)

    async def run(self, tenant: str, call: Callable[[], T]) -> T:
        """The result of a call that can be pickled, as can its result.

        Raises:
            OverloadedError: too many wait already, or many of this tenant; or it took too long.
            ConflictError: it ended its process.
        """
        try:
            await self._turns.acquire(tenant)
        except LimitReachedError:
            raise OverloadedError(
                "Many series and models are being analysed.", hint="Try again in a few seconds."
            ) from None
        try:
            with anyio.fail_after(LONGEST_S):
                return await anyio.to_process.run_sync(
                    run_in_background, call, cancellable=True, limiter=self._processes
                )
        except TimeoutError:
            raise OverloadedError(
                f"This took longer than {LONGEST_S:.0f} seconds, and was ended.",
                hint="Send fewer points, or ask for fewer samples.",
            ) from None
        except anyio.BrokenWorkerProcess as error:
            raise ConflictError(
                "The process that computed this ended.",
                hint="Try again; if that ends, too, the files of the model are damaged: register it anew.",
            ) from error
        finally:
            self._turns.release()

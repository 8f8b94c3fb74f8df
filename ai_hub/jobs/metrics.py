"""Numbers about jobs for Prometheus, without names of tenants."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import psycopg
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ai_hub.db.transactions import brief_session
from ai_hub.errors import AiHubError
from ai_hub.jobs.queue import STATUSES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from ai_hub.settings import Settings

#: Outcomes: see `worker.Worker.run_job`.
ATTEMPTS: Final = Counter(
    "ai_hub_job_attempts", "Attempts at jobs, by kind and by what came of them", ["kind", "outcome"]
)
#: Seconds between two reads, and how long one may take: nobody waits for it.
_EVERY_S: Final = 10.0
_LIMIT_S: Final = 2
_COUNT: Final = "SELECT kind, status, count(*) FROM jobs GROUP BY kind, status"


class JobCounts(Collector):
    """Gauges of jobs by kind and status, and of the age of these numbers, read beside the scrapes."""

    def __init__(self, settings: Settings, kinds: Sequence[str]) -> None:
        self._settings = settings
        #: shown with zeros where there are no jobs
        self._kinds = kinds
        #: when the database last answered, and what; None: never
        self._last: tuple[float, dict[tuple[str, str], int]] | None = None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Read the numbers every few seconds in this block."""
        keeping = asyncio.create_task(self._keep(), name="job counts")
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the database last said, and how long ago; asks nobody."""
        jobs = GaugeMetricFamily(
            "ai_hub_jobs", "Jobs of all tenants, by kind and status", labels=["kind", "status"]
        )
        age = GaugeMetricFamily("ai_hub_jobs_age_seconds", "Seconds since the jobs were counted", labels=[])
        if self._last is not None:
            read_at, counts = self._last
            for kind in sorted({*self._kinds, *(kind for kind, _ in counts)}):
                for status in STATUSES:
                    jobs.add_metric([kind, status], counts.get((kind, status), 0))
            age.add_metric([], time.monotonic() - read_at)
        yield jobs
        yield age

    async def _keep(self) -> None:
        while True:
            # the age tells of a database that does not answer, and the service's readiness why
            with suppress(AiHubError, psycopg.Error, OSError, TimeoutError):
                self._last = time.monotonic(), await self._read()
            await asyncio.sleep(_EVERY_S)

    async def _read(self) -> dict[tuple[str, str], int]:
        # the limits within hold where the server is slow, this one where nothing comes back
        async with asyncio.timeout(2 * _LIMIT_S), brief_session(self._settings, _LIMIT_S) as connection:
            rows = await (await connection.execute(_COUNT)).fetchall()
        return {(kind, status): int(count) for kind, status, count in rows}

"""Numbers about export jobs for Prometheus."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import psycopg
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ai_hub.errors import AiHubError
from ai_hub.exports.database import brief_session
from ai_hub.exports.jobs import STATUSES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ai_hub.settings import Settings

#: Attempts by what came of them: completed, failed, cancelled, given back, lost.
ATTEMPTS: Final = Counter(
    "ai_hub_export_attempts", "Attempts at export jobs, by what came of them", ["outcome"]
)
#: Seconds between two reads, and how long one may take: nobody waits for it.
_EVERY_S: Final = 10.0
_LIMIT_S: Final = 2
_COUNT: Final = "SELECT status, count(*) FROM feature_exports GROUP BY status"


class JobCounts(Collector):
    """Gauges of jobs by status and of the age of these numbers, which are read beside the scrapes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: when the database last answered, and what; None: never
        self._last: tuple[float, dict[str, int]] | None = None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Read the numbers every few seconds in this block."""
        keeping = asyncio.create_task(self._keep(), name="export counts")
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the database last said, and how long ago; asks nobody."""
        jobs = GaugeMetricFamily(
            "ai_hub_export_jobs", "Export jobs of all tenants, by status", labels=["status"]
        )
        age = GaugeMetricFamily(
            "ai_hub_export_jobs_age_seconds", "Seconds since the export jobs were counted", labels=[]
        )
        if self._last is not None:
            read_at, counts = self._last
            for status in STATUSES:
                jobs.add_metric([status], counts.get(status, 0))
            age.add_metric([], time.monotonic() - read_at)
        yield jobs
        yield age

    async def _keep(self) -> None:
        while True:
            # the age tells of a database that does not answer, and the service's readiness why
            with suppress(AiHubError, psycopg.Error, OSError, TimeoutError):
                self._last = time.monotonic(), await self._read()
            await asyncio.sleep(_EVERY_S)

    async def _read(self) -> dict[str, int]:
        # the limits within hold where the server is slow, this one where nothing comes back
        async with asyncio.timeout(2 * _LIMIT_S), brief_session(self._settings, _LIMIT_S) as connection:
            rows = await (await connection.execute(_COUNT)).fetchall()
        return {status: int(count) for status, count in rows}

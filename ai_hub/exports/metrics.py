"""Numbers about export jobs for Prometheus."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import psycopg
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ai_hub.errors import AiHubError
from ai_hub.exports.database import transaction
from ai_hub.exports.jobs import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.settings import Settings

#: Attempts by what came of them: completed, failed, cancelled, given back, lost.
ATTEMPTS: Final = Counter(
    "ai_hub_export_attempts", "Attempts at export jobs, by what came of them", ["outcome"]
)
_KEPT_S: Final = 10.0
_COUNT = "SELECT status, count(*) FROM feature_exports GROUP BY status"


class JobCounts(Collector):
    """The gauge `ai_hub_export_jobs` of jobs by status; the database is asked every ten seconds at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read_at = -math.inf
        self._counts: dict[str, int] = {}

    def _read(self) -> None:
        """Ask the database, if that is due; while it does not answer there are no numbers."""
        if time.monotonic() - self._read_at < _KEPT_S:
            return
        self._read_at = time.monotonic()
        try:
            with transaction(self._settings) as connection:
                found = dict(connection.execute(_COUNT).fetchall())
        except (AiHubError, psycopg.Error):
            self._counts = {}
        else:
            self._counts = {status: int(found.get(status, 0)) for status in STATUSES}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the database says, or said within the last seconds."""
        self._read()
        gauge = GaugeMetricFamily(
            "ai_hub_export_jobs", "Export jobs of all tenants, by status", labels=["status"]
        )
        for status, count in self._counts.items():
            gauge.add_metric([status], count)
        yield gauge

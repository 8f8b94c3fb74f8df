"""Numbers about export jobs for Prometheus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from ai_hub.exports.database import transaction
from ai_hub.exports.jobs import STATUSES

if TYPE_CHECKING:
    from ai_hub.settings import Settings

#: Attempts by what came of them: completed, failed, cancelled, given back, lost.
ATTEMPTS: Final = Counter(
    "ai_hub_export_attempts", "Attempts at export jobs, by what came of them", ["outcome"]
)
_KEPT_S: Final = 10.0
_COUNT = "SELECT status, count(*) FROM feature_exports GROUP BY status"


class JobCounts:
    """Jobs by status, for the gauge `ai_hub_export_jobs`; the database is asked every ten seconds at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read_at = -_KEPT_S
        self._counts: dict[str, int] = {}

    def read(self) -> dict[str, int]:
        """The number of jobs of each status.

        Raises:
            ServiceDownError: the database does not answer.
        """
        if time.monotonic() - self._read_at >= _KEPT_S:
            with transaction(self._settings) as connection:
                found = dict(connection.execute(_COUNT).fetchall())
            self._counts = {status: int(found.get(status, 0)) for status in STATUSES}
            self._read_at = time.monotonic()
        return dict(self._counts)

"""Gate `time_in_staging`: the version had time to be tried."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field

from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy

_HOUR_MS: Final = 3_600_000
_YEAR_H: Final = 8760


class TimeInStagingGate(Gate):
    """The version has been in Staging for some hours, since it was registered or restored last."""

    name: ClassVar[str] = "time_in_staging"

    hours: float = Field(default=24, gt=0, le=_YEAR_H, description="hours in Staging at least")

    def check(self, candidacy: Candidacy) -> Verdict:
        """Compare with the audit trail's time of entry."""
        entered = candidacy.staged_at_ms
        if entered is None:
            return refused(
                "It is not recorded since when the version has been in Staging.",
                "Move it to Archived and back to Staging; its time counts from then.",
            )
        ready = entered + round(self.hours * _HOUR_MS)
        waited = (candidacy.now_ms - entered) / _HOUR_MS
        evidence = {"hours_in_staging": round(waited, 3), "entered_at_ms": entered}
        since = f"In Staging for {waited:.1f} h"
        if candidacy.now_ms < ready:
            # the next full second, so that the time named is not too early
            when = datetime.fromtimestamp(-(-ready // 1000), UTC)
            return refused(
                f"{since} of {self.hours:g} h.", f"Promote after {when:%Y-%m-%d %H:%M:%S} UTC.", **evidence
            )
        return passed(f"{since}.", **evidence)

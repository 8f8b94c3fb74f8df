"""One row of the registry's audit trail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ai_hub.times import from_millis


@dataclass(frozen=True)
class Transition:
    """A change of stage; `from_stage` is None on registration.

    `actor_source` says how far to trust `actor`: authenticated, claimed or unknown.
    """

    version: int
    semantic_version: str | None
    from_stage: str | None
    to_stage: str
    actor: str
    actor_source: str
    reason: str | None
    evidence: dict[str, Any]
    at: datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Transition:
        """Read what the server sends."""
        at = from_millis(row["at_ms"])
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if name != "at"}, at=at)

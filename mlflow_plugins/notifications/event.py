"""What people are told about: one event with who, what, why and the evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.lifecycle import rules

if TYPE_CHECKING:
    from mlflow_plugins.lifecycle.audit import Transition

PROMOTION: Final = "promotion"
ROLLBACK: Final = "rollback"
REFUSAL: Final = "refusal"
REQUEST: Final = "request"
ARCHIVAL: Final = "archival"
DELETION: Final = "deletion"
TEST: Final = "test"
#: Each kind in words, before the name of the user. A new kind is a line here, and a call of `outbox.add`.
KINDS: Final = {
    PROMOTION: "is in Production, promoted by",
    ROLLBACK: "is back in Production, rolled back by",
    REFUSAL: "is not promoted, refused to",
    REQUEST: "shall go to Production, asks",
    ARCHIVAL: "left Production without a successor, archived by",
    DELETION: "left Production without a successor, deleted by",
    TEST: "is nothing but a test by",
}


@dataclass(frozen=True)
class Event:
    """Something about a version; `at_ms` is UTC milliseconds."""

    kind: str
    workspace: str
    model: str
    version: int
    semantic_version: str | None
    actor: str
    actor_source: str
    reason: str | None
    at_ms: int
    from_stage: str | None = None
    to_stage: str | None = rules.PRODUCTION
    #: why it was refused
    message: str | None = None
    #: versions that were archived for it
    displaced: list[int] = field(default_factory=list)
    #: of the gates, as in the audit trail
    evidence: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_move(cls, workspace: str, own: Transition, displaced: list[Transition]) -> Event | None:
        """The event of a version's move into Production, or out of it without a successor; else None."""
        if (kind := _KINDS_OF_MOVES.get((own.from_stage, own.to_stage))) is None:
            return None
        return cls(
            kind=kind,
            workspace=workspace,
            model=own.name,
            version=own.version,
            semantic_version=own.semantic_version,
            actor=own.actor,
            actor_source=own.actor_source,
            reason=own.reason,
            at_ms=own.at_ms,
            from_stage=own.from_stage,
            to_stage=own.to_stage,
            displaced=[row.version for row in displaced],
            evidence=own.evidence,
        )

    @property
    def label(self) -> str:
        """The version as people write it."""
        number = f" ({self.semantic_version})" if self.semantic_version else ""
        # a test is about no version
        return f"{self.model} {self.version}{number}" if self.version else f"This {self.model}"

    @property
    def headline(self) -> str:
        """One line: what happened, where, and who did it."""
        who = self.actor if self.actor_source in {"authenticated", "delegated"} else f"{self.actor} (claimed)"
        happened = KINDS.get(self.kind, f"({self.kind})")
        return " ".join(f"[{self.workspace}] {self.label} {happened} {who}".split())

    def lines(self) -> list[str]:
        """Everything else, a paragraph each."""
        gates = self.evidence.get("gates")
        told = [f"{name}: {_text(found)}" for name, found in gates.items()] if isinstance(gates, dict) else []
        displaced = ", ".join(map(str, self.displaced))
        return [
            f"Why: {self.reason or 'no reason was given'}",
            *([self.message] if self.message else []),
            *([f"Archived for it: version {displaced}"] if displaced else []),
            *([f"Gate {line}" for line in told] if not self.message else []),
        ]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Event:
        """What `as_json` gave, perhaps of a release with more fields."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    @property
    def at(self) -> str:
        """ISO 8601, UTC."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat(timespec="milliseconds")


_KINDS_OF_MOVES: Final[dict[tuple[str | None, str], str]] = {
    (rules.STAGING, rules.PRODUCTION): PROMOTION,
    (rules.ARCHIVED, rules.PRODUCTION): ROLLBACK,
    (rules.PRODUCTION, rules.ARCHIVED): ARCHIVAL,
    (rules.PRODUCTION, rules.DELETED): DELETION,
}


def _text(found: Any) -> str:
    """What a gate said, and the metrics it saw."""
    if not isinstance(found, dict):
        return str(found)
    metrics = found.get("metrics")
    values = metrics.items() if isinstance(metrics, dict) else ()
    told = ", ".join(f"{name} {value:.6g}" for name, value in values if isinstance(value, int | float))
    return f"{found.get('text', '')} {told}".strip()

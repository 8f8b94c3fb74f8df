"""What all gates together say about a candidate, as text for people and as evidence for the audit trail."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mlflow_plugins.lifecycle import rules


@dataclass(frozen=True)
class GateResult:
    """One gate's verdict (see `gate.Verdict`)."""

    gate: str
    passed: bool
    text: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Assessment:
    """What a promotion of a version would meet, or met."""

    model: str
    version: int
    semantic_version: str | None
    stage: str
    rollback: bool
    #: MLflow's number of the version that would be displaced; None when nothing is in Production.
    displaces: int | None
    #: Why the lifecycle's rules or a broken policy refuse before any gate is asked; None when they do not.
    refusal: str | None
    results: tuple[GateResult, ...]
    #: Gates of the policy that do not guard a rollback.
    skipped: tuple[str, ...]
    #: Where the policy comes from (`built-in` or its file) and its SHA-256.
    policy: dict[str, str | None]

    @property
    def failed(self) -> tuple[GateResult, ...]:
        """The gates that refuse."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        """Whether the promotion would go through."""
        return self.refusal is None and not self.failed

    def refusal_text(self) -> str | None:
        """Why the promotion is refused, gate by gate, each with its way out; None when it is not.

        Pages that ignore line ends still show it readably.
        """
        if self.refusal is not None:
            return self.refusal
        if not self.failed:
            return None
        number = f" ({self.semantic_version})" if self.semantic_version else ""
        heading = (
            f"Version {self.version}{number} of model {self.model} stays in {self.stage}: "
            f"{len(self.failed)} of {len(self.results)} gates to {rules.PRODUCTION} "
            f"{'refuses' if len(self.failed) == 1 else 'refuse'} it."
        )
        return "\n".join([heading, *(f"• {result.gate}: {result.text}" for result in self.failed)])

    def evidence(self) -> dict[str, Any]:
        """What the audit trail keeps."""
        gates = {result.gate: {"text": result.text, **result.evidence} for result in self.results}
        skipped = {"not_on_rollback": list(self.skipped)} if self.skipped else {}
        return {"policy": self.policy, "gates": gates, **skipped}

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, `passed` and `text` (of the refusal) included."""
        return {**asdict(self), "passed": self.passed, "text": self.refusal_text()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Assessment:
        """Read what `as_json` wrote."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        results = tuple(GateResult(**each) for each in values["results"])
        return cls(**{**known, "results": results, "skipped": tuple(values["skipped"])})

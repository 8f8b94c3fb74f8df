"""What a gate is, what it may ask about a candidate for Production, and what all gates together say.

Text is for people, evidence for the audit trail. Clients import this without MLflow.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from mlflow_plugins.lifecycle import rules

if TYPE_CHECKING:
    from mlflow_plugins.users.permissions import Actor  # noqa: TC004  # imports MLflow


@dataclass(frozen=True)
class VersionInfo:
    """What is known about a version, read when it is first asked for.

    Its own folder counts, since its run may have changed meanwhile; metrics that were recorded after the
    registration are added. A version without a folder is described by its run.
    """

    version: int
    semantic_version: str | None
    read_metrics: Callable[[], Mapping[str, float | None]]
    read_metadata: Callable[[], Mapping[str, Any]]
    run_id: str | None = None

    @cached_property
    def metrics(self) -> Mapping[str, float | None]:
        """Last value of each metric, None for no finite number (see `context.present_metrics`)."""
        return self.read_metrics()

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What `metadata.json` says."""
        return self.read_metadata()

    @property
    def signature(self) -> Mapping[str, Any]:
        """The model's signature, its halves `inputs` and `outputs` as lists of columns; empty without one."""
        return self.metadata.get("signature") or {}

    def __str__(self) -> str:
        return f"version {self.version}" + (f" ({self.semantic_version})" if self.semantic_version else "")


@dataclass(frozen=True)
class Candidate:
    """A version that somebody wants in Production, and everything gates judge it by; times in UTC ms."""

    tenant: str
    model: str
    info: VersionInfo
    #: Whether an archived version that was in Production before is to come back.
    rollback: bool
    actor: Actor
    reason: str | None
    #: Who registered the version; None when nobody is known to have.
    registered_by: str | None
    staged_at_ms: int | None
    now_ms: int
    #: Checks the version's folder and returns that as evidence (see `manifest.verify`); None without one.
    verify: Callable[..., dict[str, Any] | None]
    find_production: Callable[[], VersionInfo | None]
    #: What was noted of its comparison with `production`, see `comparison.Record`; None: nothing.
    comparison: str | None = None

    @property
    def version(self) -> int:
        """MLflow's number of the candidate."""
        return self.info.version

    @cached_property
    def production(self) -> VersionInfo | None:
        """The version it would displace; None when nothing is in Production."""
        return self.find_production()

    @property
    def compared_with_production(self) -> bool:
        """Whether a gate looked at `production`, so that its verdict holds for this one only."""
        return "production" in vars(self)

    @property
    def authors(self) -> frozenset[str]:
        """Who registered the version, and the user of the run it came from, as far as they are known."""
        return frozenset(name for name in (self.registered_by, self.info.metadata.get("author")) if name)


@dataclass(frozen=True)
class Verdict:
    """A gate's answer.

    `text` says what was found; of a refusal also the way out. `evidence` (plain JSON values) is kept with the
    transition.
    """

    passed: bool
    text: str
    evidence: dict[str, Any] = field(default_factory=dict)


class Gate(BaseModel, ABC):
    """One condition for a promotion; its fields are what a policy may set.

    Every field has a description, which `ai-hub policy gates` prints. An exception in `check` refuses the
    promotion: an `MlflowException` with its text, any other as a defect of the gate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: What policies call it; the entry point has the same name.
    name: ClassVar[str]
    #: Whether it also guards a rollback, which must stay possible in an emergency.
    on_rollback: ClassVar[bool] = False

    @classmethod
    def about(cls) -> str:
        """What it is about: the summary of its docstring."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")

    @classmethod
    def warm_up(cls) -> None:
        """Do what would make the first `check` slow, such as imports, while the server starts."""

    def judged_metrics(self) -> list[str]:
        """Names of the metrics it looks at, the most telling first; the page plots them before others."""
        return []

    @abstractmethod
    def check(self, candidate: Candidate) -> Verdict:
        """Whether the candidate may pass."""


def passed(text: str, **evidence: Any) -> Verdict:
    """The candidate may pass."""
    return Verdict(passed=True, text=text, evidence=evidence)


def refused(found: str, way_out: str, **evidence: Any) -> Verdict:
    """The candidate may not pass: what was found, and what would help."""
    return Verdict(passed=False, text=f"{found} {way_out}", evidence=evidence)


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

"""What a gate is: typed settings, and one question about a candidate for Production."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy


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
    def check(self, candidacy: Candidacy) -> Verdict:
        """Whether the candidate may pass."""


def passed(text: str, **evidence: Any) -> Verdict:
    """The candidate may pass."""
    return Verdict(passed=True, text=text, evidence=evidence)


def refused(found: str, way_out: str, **evidence: Any) -> Verdict:
    """The candidate may not pass: what was found, and what would help."""
    return Verdict(passed=False, text=f"{found} {way_out}", evidence=evidence)

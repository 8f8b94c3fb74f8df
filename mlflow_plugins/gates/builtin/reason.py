"""Gate `reason`: somebody said why."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field

from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused
from mlflow_plugins.people.actor import REASON_TAG

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy

#: The longest reason that the audit trail keeps.
_LONGEST: Final = 5000
_WAY_OUT: Final = (
    f"Promote with --reason or the field reason; in MLflow's pages, set the version's tag {REASON_TAG} first."
)


class ReasonGate(Gate):
    """The promotion says why, for those who read the audit trail later."""

    name: ClassVar[str] = "reason"
    on_rollback: ClassVar[bool] = True

    min_length: int = Field(
        default=10,
        ge=1,
        le=_LONGEST,
        description="characters it has at least, runs of blanks counting as one",
    )

    def check(self, candidacy: Candidacy) -> Verdict:
        """Measure the reason."""
        reason = " ".join((candidacy.reason or "").split())
        if not reason:
            return refused("No reason was given.", _WAY_OUT, length=0)
        if len(reason) < self.min_length:
            characters = "1 character" if len(reason) == 1 else f"{len(reason)} characters"
            found = f"The reason {reason!r} has {characters}; it takes {self.min_length}."
            return refused(found, _WAY_OUT, length=len(reason))
        return passed("A reason was given.", length=len(reason))

"""Gate `approver_is_not_author`: four eyes have seen the version."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused
from mlflow_plugins.people.actor import UNKNOWN

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy


class ApproverGate(Gate):
    """Who promotes a version neither registered it nor ran its training.

    Not asked of a rollback: that version was approved when it was promoted.
    """

    name: ClassVar[str] = "approver_is_not_author"

    authenticated: bool = Field(
        default=False,
        description="who promotes must be logged in, here or at a service that may speak for its own "
        "callers; a name that only the client claims is refused",
    )

    def check(self, candidacy: Candidacy) -> Verdict:
        """Compare names, whatever their case."""
        actor = candidacy.actor
        authors = sorted(candidacy.authors)
        evidence = {"authors": authors, "approver": actor.name, "approver_source": actor.source}
        if actor == UNKNOWN:
            return refused(
                "Nobody knows who asks.", "Log in, or promote with the ai-hub command.", **evidence
            )
        if self.authenticated and actor.source == "claimed":
            return refused(f"{actor.name} is only claimed to ask.", "Log in to the registry.", **evidence)
        if not authors:
            return refused(
                "Nobody knows who made this version.",
                "Register it anew as a user with a name, from a run that has one.",
                **evidence,
            )
        if _plain(actor.name) in map(_plain, authors):
            return refused(
                f"{actor.name} made this version.",
                f"Somebody else than {' and '.join(authors)} must promote it.",
                **evidence,
            )
        return passed(f"{actor.name} promotes what {' and '.join(authors)} made.", **evidence)


def _plain(name: str) -> str:
    return name.strip().casefold()

"""Gate `manifest`: the version's files are those that were registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy


class ManifestGate(Gate):
    """Every file has the SHA-256 that the version's manifest says, and none is missing or added."""

    name: ClassVar[str] = "manifest"
    on_rollback: ClassVar[bool] = True

    required: bool = Field(
        default=False,
        description="also refuse versions without a manifest, which were registered before this registry",
    )

    def check(self, candidacy: Candidacy) -> Verdict:
        """Read and hash every file."""
        evidence = candidacy.verify()
        if evidence is not None:
            return passed(f"All {evidence['file_count']} files are as they were registered.", **evidence)
        found = f"Version {candidacy.version} has no manifest, so its files cannot be checked."
        if self.required:
            return refused(found, "Register the model anew from its run.", manifest="none")
        return passed(found, manifest="none")

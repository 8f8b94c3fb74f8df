"""Gate `signature`: callers can know what the model takes and returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy


class SignatureGate(Gate):
    """The model was logged with a signature."""

    name: ClassVar[str] = "signature"

    outputs: bool = Field(default=True, description="the signature also says what the model returns")

    def check(self, candidacy: Candidacy) -> Verdict:
        """Look for both halves."""
        signature = candidacy.facts.signature
        wanted = ["inputs", "outputs"] if self.outputs else ["inputs"]
        if lacking := [half for half in wanted if not signature.get(half)]:
            found = f"Its signature lacks {' and '.join(lacking)}." if signature else "It has no signature."
            return refused(
                found,
                "Log the model with signature=mlflow.models.infer_signature(inputs, predictions), "
                "and register it anew.",
                lacking=lacking,
            )
        columns = {half: len(signature[half]) for half in wanted}
        return passed(
            "Its signature says what it takes" + (" and returns." if self.outputs else "."), **columns
        )

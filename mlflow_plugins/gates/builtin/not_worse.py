"""Gate `not_worse_than_production`: the candidate keeps up with what it displaces."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mlflow_plugins.gates.builtin.metrics import exact, shown, value_of, way_out
from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from fractions import Fraction

    from mlflow_plugins.gates.candidacy import Candidacy


class NotWorseGate(Gate):
    """A metric is not worse than production's by more than a percentage of production's absolute value."""

    name: ClassVar[str] = "not_worse_than_production"

    metric: str = Field(min_length=1, description="name of the metric")
    better: Literal["lower", "higher"] = Field(description="which direction is better: lower or higher")
    max_worse_percent: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="how much worse it may be, in % of production's value",
    )

    def judged_metrics(self) -> list[str]:
        """The one that is compared."""
        return [self.metric]

    def check(self, candidacy: Candidacy) -> Verdict:
        """Compare the metrics of both."""
        value = value_of(candidacy.facts, self.metric)
        if isinstance(value, str):
            return refused(value, way_out(candidacy.facts, self.metric), metric=self.metric)
        evidence = {"metric": self.metric, "value": value, "max_worse_percent": self.max_worse_percent}
        production = candidacy.production
        if production is None:
            text = f"{self.metric} is {shown(value)}; nothing is in Production to compare it with."
            return passed(text, **evidence, production_version=None)
        evidence |= {"production_version": production.version}
        theirs = value_of(production, self.metric)
        if isinstance(theirs, str):
            or_else = f"{way_out(production, self.metric)} Or turn this gate off for the model until then."
            return refused(theirs, or_else, **evidence)
        return self._compare(value, theirs, str(production), {**evidence, "production_value": theirs})

    def _compare(self, value: float, theirs: float, whose: str, evidence: dict[str, object]) -> Verdict:
        loss = exact(value) - exact(theirs) if self.better == "lower" else exact(theirs) - exact(value)
        allowed = abs(exact(theirs)) * exact(self.max_worse_percent) / 100
        percent = _percent(loss, theirs)
        compared = f"{self.metric} is {shown(value)}, that of {whose} in Production is {shown(theirs)}: "
        if loss > 0:
            compared += "worse" if percent is None else f"{percent:.3g} % worse"
        else:
            compared += "not worse"
        if loss <= allowed:
            return passed(f"{compared}.", **evidence, worse_percent=percent)
        return refused(
            f"{compared}, and {self.max_worse_percent:g} % is allowed ({self.better} is better).",
            "Promote a better version, or have the policy allow more for this model.",
            **evidence,
            worse_percent=percent,
        )


def _percent(loss: Fraction, theirs: float) -> float | None:
    """`loss` in per cent of production's value; negative for a gain, None of a zero."""
    if theirs == 0:
        return None
    percent = 100 * loss / abs(exact(theirs))
    largest = sys.float_info.max
    return float(max(min(percent, exact(largest)), exact(-largest)))

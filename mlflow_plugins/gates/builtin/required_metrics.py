"""Gate `required_metrics`: the version was measured, and well enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mlflow_plugins.gates.builtin.metrics import exact, shown, value_of, way_out
from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy


class Bounds(BaseModel):
    """What a metric may be, both ends included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float | None = Field(default=None, allow_inf_nan=False, description="at least this")
    max: float | None = Field(default=None, allow_inf_nan=False, description="at most this")

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so that no value could pass")
        return self

    def miss(self, value: float) -> str | None:
        """How `value` misses them; None when it does not."""
        if self.min is not None and exact(value) < exact(self.min):
            return f"below the least allowed, {shown(self.min)}"
        if self.max is not None and exact(value) > exact(self.max):
            return f"above the most allowed, {shown(self.max)}"
        return None


class RequiredMetricsGate(Gate):
    """Named metrics were recorded, as finite numbers within their bounds."""

    name: ClassVar[str] = "required_metrics"

    metrics: dict[str, Bounds] = Field(
        min_length=1, description="metrics by name, each with min and max; or a list of names alone"
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _names_alone(cls, given: Any) -> Any:
        return {name: {} for name in given} if isinstance(given, list) else given

    def judged_metrics(self) -> list[str]:
        """All that must be there."""
        return list(self.metrics)

    def check(self, candidacy: Candidacy) -> Verdict:
        """Look at each."""
        problems: list[str] = []
        failed: list[str] = []
        values: dict[str, float | None] = {}
        for metric, bounds in self.metrics.items():
            value = value_of(candidacy.facts, metric)
            values[metric] = None if isinstance(value, str) else value
            if isinstance(value, str):
                problems.append(value)
                failed.append(metric)
            elif miss := bounds.miss(value):
                problems.append(f"Metric {metric} is {shown(value)}, {miss}.")
                failed.append(metric)
        if problems:
            return refused(" ".join(problems), way_out(candidacy.facts, *failed), metrics=values)
        return passed("Every required metric is there and within its bounds.", metrics=values)

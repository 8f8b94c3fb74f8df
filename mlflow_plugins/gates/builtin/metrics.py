"""Reading one metric of a version, which may be missing or no number."""

from __future__ import annotations

from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Facts


def value_of(facts: Facts, metric: str) -> float | str:
    """The metric's value; a sentence when there is none to compare."""
    if metric not in facts.metrics:
        known = ", ".join(sorted(facts.metrics)) or "no metrics"
        return f"Metric {metric} of {facts} was not recorded; it has {known}."
    value = facts.metrics[metric]
    if value is None or not isfinite(value):
        return f"Metric {metric} of {facts} is not a finite number."
    return value


def way_out(facts: Facts, *metrics: str) -> str:
    """What would help a version whose metrics are missing, no numbers or not good enough."""
    if any(metric in facts.metrics for metric in metrics):
        return "Register a version from a run that recorded better ones; those of this one stay."
    if facts.run_id is None:
        return "It has no run to log that to: register the model anew from a run that has it."
    return f"Log it to run {facts.run_id}; it counts as soon as it is there."


def exact(value: float) -> Fraction:
    """The decimal number people read, so that a limit they can reckon is met exactly."""
    return Fraction(str(value))


def shown(value: float) -> str:
    """As people read it; the evidence has every digit."""
    return f"{value:.6g}"

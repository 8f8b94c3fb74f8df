"""The comparison with production, against arithmetic on exact fractions."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.gate_candidates import candidate as candidate_with
from support.gate_candidates import info

from mlflow_plugins.gates.builtin import NotWorseGate

if TYPE_CHECKING:
    from mlflow_plugins.gates.gate import Verdict

_VALUES = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-3, 3).map(float)


def _compare(
    candidate: float | None,
    production: float | None,
    *,
    better: Literal["lower", "higher"] = "lower",
    percent: float = 5,
) -> Verdict:
    gate = NotWorseGate(metric="mae", better=better, max_worse_percent=percent)
    theirs = info(1, metrics={"mae": production})
    return gate.check(candidate_with({"mae": candidate}, find_production=lambda: theirs))


@given(
    candidate=_VALUES,
    production=_VALUES,
    better=st.sampled_from(["lower", "higher"]),
    percent=st.floats(0, 1e6) | st.sampled_from([0.0, 5.0, 10.0, 100.0]),
)
@example(candidate=0.33, production=0.3, better="lower", percent=10.0)
@example(candidate=1e308, production=5e-324, better="lower", percent=10.0)
@example(candidate=-1.7e308, production=1.7e308, better="higher", percent=0.0)
@example(candidate=-0.0, production=0.0, better="lower", percent=0.0)
@example(candidate=-1.05, production=-1.0, better="higher", percent=5.0)
def test_verdict__is_that_of_exact_decimals(
    candidate: float | None, production: float | None, better: Literal["lower", "higher"], percent: float
) -> None:
    verdict = _compare(candidate, production, better=better, percent=percent)
    assert verdict.passed == _oracle(candidate, production, better, percent)
    json.dumps(verdict.evidence, allow_nan=False)
    if candidate is None or not math.isfinite(candidate):
        assert "version 2 (v1.0.1) is not a finite number" in verdict.text
    elif production is None or not math.isfinite(production):
        assert "version 1 (v1.0.0) is not a finite number" in verdict.text


def _oracle(candidate: float | None, production: float | None, better: str, percent: float) -> bool:
    if candidate is None or production is None:
        return False
    if not (math.isfinite(candidate) and math.isfinite(production)):
        return False
    # the last value allowed, in the decimals people read
    reference, share = Fraction(repr(production)), Fraction(repr(percent)) / 100
    if better == "lower":
        return Fraction(repr(candidate)) <= reference + abs(reference) * share
    return Fraction(repr(candidate)) >= reference - abs(reference) * share


def test_refusal__names_both_values_the_loss_and_the_way_out() -> None:
    verdict = _compare(2.0, 1.5)
    assert verdict.text == (
        "mae is 2, that of version 1 (v1.0.0) in Production is 1.5: 33.3 % worse, "
        "and 5 % is allowed (lower is better). "
        "Promote a better version, or have the policy allow more for this model."
    )
    assert verdict.evidence == {
        "metric": "mae",
        "value": 2.0,
        "max_worse_percent": 5.0,
        "production_version": 1,
        "production_value": 1.5,
        "worse_percent": pytest.approx(100 / 3),
    }


def test_zero_in_production__nothing_is_a_percentage_of_it() -> None:
    verdict = _compare(0.001, 0.0, percent=1e6)
    assert not verdict.passed
    assert verdict.evidence["worse_percent"] is None
    assert _compare(0.0, 0.0).passed
    assert _compare(-1.0, 0.0).passed


def test_nothing_in_production__passes_and_says_so() -> None:
    gate = NotWorseGate(metric="mae", better="lower")
    verdict = gate.check(candidate_with({"mae": 3.5}))
    assert verdict.passed
    assert "nothing is in Production" in verdict.text
    assert verdict.evidence["production_version"] is None


@pytest.mark.parametrize("production", [None, 1])
def test_metric__that_was_not_recorded__is_refused(production: int | None) -> None:
    # were it let into an empty Production, no later version could be compared with it
    gate = NotWorseGate(metric="mae", better="lower")
    theirs = info(1, metrics={"mae": 1.0}) if production else None
    verdict = gate.check(candidate_with({"rmse": 1.0}, find_production=lambda: theirs))
    assert not verdict.passed
    assert "was not recorded; it has rmse" in verdict.text


def test_production__without_the_metric__says_how_to_go_on() -> None:
    gate = NotWorseGate(metric="mae", better="lower")
    verdict = gate.check(candidate_with({"mae": 1.0}, find_production=lambda: info(1, metrics={"rmse": 1.0})))
    assert not verdict.passed
    assert verdict.text.endswith("Or turn this gate off for the model until then.")

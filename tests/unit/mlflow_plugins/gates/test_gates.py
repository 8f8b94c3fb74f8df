"""Each gate that needs no server: what passes, what is refused, and that a refusal tells the way out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from pydantic import ValidationError
from support.gate_candidates import HOUR_MS, NOW_MS, candidate

from mlflow_plugins.errors import conflict
from mlflow_plugins.gates.builtin import (
    ApproverGate,
    ManifestGate,
    ReasonGate,
    RequiredMetricsGate,
    SignatureGate,
    TimeInStagingGate,
)
from mlflow_plugins.gates.policy import gate_class, gate_names
from mlflow_plugins.users.permissions import UNKNOWN, Actor, claimed

if TYPE_CHECKING:
    from mlflow_plugins.gates.gate import Candidate, Gate


def _passes(gate: Gate, asked: Candidate) -> dict[str, Any]:
    verdict = gate.check(asked)
    assert verdict.passed, verdict
    return verdict.evidence


def _refusal(gate: Gate, asked: Candidate) -> str:
    verdict = gate.check(asked)
    assert not verdict.passed, verdict
    return verdict.text


def test_installed_gates__say_what_they_and_their_settings_are_about() -> None:
    assert gate_names() == [
        "approver_is_not_author",
        "beats_production",
        "feature_service",
        "manifest",
        "not_worse_than_production",
        "reason",
        "required_metrics",
        "signature",
        "time_in_staging",
    ]
    for name in gate_names():
        gate = gate_class(name)
        assert gate.about().endswith(".")
        for field in gate.model_fields.values():
            assert field.description


def test_rollback__is_guarded_by_what_an_emergency_leaves_time_for() -> None:
    assert {name for name in gate_names() if gate_class(name).on_rollback} == {"manifest", "reason"}


@pytest.mark.parametrize("reason", [None, "", "  \n ", "too short", "a        b"])
def test_reason__missing_or_short__is_refused(reason: str | None) -> None:
    text = _refusal(ReasonGate(), candidate(reason=reason))
    for way_out in ("--reason", "promotion.reason"):
        assert way_out in text


def test_reason__long_enough__passes() -> None:
    assert _passes(ReasonGate(), candidate(reason="Lower error in June")) == {"length": 19}
    assert _passes(ReasonGate(min_length=2), candidate(reason=" ok "))
    assert "takes 20" in _refusal(ReasonGate(min_length=20), candidate(reason="Lower error in June"))


INPUTS = [{"name": "lag_1h", "type": "double"}]


@pytest.mark.parametrize(
    ("metadata", "lacking"),
    [
        ({}, "no signature"),
        ({"signature": None}, "no signature"),
        ({"signature": {"inputs": INPUTS}}, "lacks outputs"),
        ({"signature": {"inputs": [], "outputs": INPUTS}}, "lacks inputs"),
    ],
)
def test_signature__incomplete__is_refused(metadata: dict[str, Any], lacking: str) -> None:
    text = _refusal(SignatureGate(), candidate(metadata=metadata))
    assert lacking in text
    assert "infer_signature" in text


def test_signature__complete__passes() -> None:
    both = {"signature": {"inputs": INPUTS, "outputs": [{"type": "double"}]}}
    assert _passes(SignatureGate(), candidate(metadata=both)) == {"inputs": 1, "outputs": 1}
    assert _passes(SignatureGate(outputs=False), candidate(metadata={"signature": {"inputs": INPUTS}}))


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ({}, "it has no metrics"),
        ({"rmse": 1.0}, "it has rmse"),
        ({"mae": None}, "not a finite number"),
        ({"mae": float("nan")}, "not a finite number"),
        ({"mae": float("inf")}, "not a finite number"),
        ({"mae": -sys.float_info.max}, "not a finite number"),  # as MLflow keeps negative infinity
        ({"mae": 2.01}, "2.01, above the most allowed, 2"),
        ({"mae": -0.5}, "-0.5, below the least allowed, 0"),
    ],
)
def test_required_metrics__missing_or_out_of_bounds__is_refused(
    metrics: dict[str, float | None], found: str
) -> None:
    gate = RequiredMetricsGate(metrics={"mae": {"min": 0, "max": 2}})
    text = _refusal(gate, candidate(metrics))
    assert found in text
    assert "mae" in text
    assert ("Register a version" in text) == ("mae" in metrics)
    assert ("register the model anew from a run that has it" in text) == ("mae" not in metrics)


def test_required_metrics__every_problem_is_named__and_bounds_are_inclusive() -> None:
    gate = RequiredMetricsGate(metrics={"mae": {"max": 1}, "rmse": {}, "mape": {"max": 0.1}})
    text = _refusal(gate, candidate({"mae": 3.0, "mape": 0.1}))
    assert "mae is 3" in text
    assert "rmse" in text
    assert "mape is" not in text
    assert _passes(gate, candidate({"mae": 1.0, "rmse": 9.0, "mape": 0.1}))
    assert RequiredMetricsGate(metrics=["mae", "rmse"]) == RequiredMetricsGate(
        metrics={"mae": {}, "rmse": {}}
    )


@pytest.mark.parametrize(
    "metrics", [{}, [], "mae", {"mae": {"max": "low"}}, {"mae": {"min": 2, "max": 1}}, {"mae": {"most": 1}}]
)
def test_required_metrics__meaningless_settings__are_refused(metrics: Any) -> None:
    with pytest.raises(ValidationError):
        RequiredMetricsGate(metrics=metrics)


def test_manifest__passes_on_what_was_verified() -> None:
    assert _passes(ManifestGate(), candidate(verify=lambda **_: {"file_count": 5})) == {"file_count": 5}
    rehashed = candidate(verify=lambda *, rehash: {"file_count": 5, "rehash": rehash})
    assert _passes(ManifestGate(rehash=True), rehashed) == {"file_count": 5, "rehash": True}
    assert _passes(ManifestGate(), candidate()) == {"manifest": "none"}
    assert "Register the model anew" in _refusal(ManifestGate(required=True), candidate())


def test_manifest__tampered__says_which_file() -> None:
    def verify(*, rehash: bool) -> dict[str, Any]:
        assert not rehash
        raise conflict("Artifact model.lgb was changed")

    with pytest.raises(MlflowException, match=r"model\.lgb"):
        ManifestGate().check(candidate(verify=verify))


@pytest.mark.parametrize(
    ("actor", "registered_by", "run_user", "found"),
    [
        (UNKNOWN, "ada", None, "Nobody knows who asks"),
        (claimed("ada"), "ada", None, "ada made this version"),
        (claimed("Ada "), "ada", "bob", "Somebody else than ada and bob"),
        (claimed("bob"), "ada", "bob", "bob made this version"),
        (Actor("bob", "authenticated"), None, "bob", "bob made this version"),
        (claimed("grace"), None, None, "Nobody knows who made"),
    ],
)
def test_approver__unknown_or_the_author__is_refused(
    actor: Actor, registered_by: str | None, run_user: str | None, found: str
) -> None:
    asked = candidate(metadata={"author": run_user}, actor=actor, registered_by=registered_by)
    assert found in _refusal(ApproverGate(), asked)


def test_approver__somebody_else__passes() -> None:
    evidence = _passes(ApproverGate(), candidate(metadata={"author": "bob"}))
    assert evidence == {"authors": ["ada", "bob"], "approver": "grace", "approver_source": "claimed"}
    strict = ApproverGate(authenticated=True)
    assert "Log in" in _refusal(strict, candidate())
    assert _passes(strict, candidate(actor=Actor("grace", "authenticated")))


@given(hours=st.floats(0.001, 8760), waited_ms=st.integers(-HOUR_MS, 8761 * HOUR_MS))
def test_time_in_staging__is_measured_to_the_millisecond(hours: float, waited_ms: int) -> None:
    asked = candidate(staged_at_ms=NOW_MS - waited_ms)
    assert TimeInStagingGate(hours=hours).check(asked).passed == (waited_ms >= round(hours * HOUR_MS))


def test_time_in_staging__says_when__or_how_to_start_the_clock() -> None:
    text = _refusal(TimeInStagingGate(hours=24), candidate())
    assert text == "In Staging for 2.0 h of 24 h. Promote after 2027-01-16 06:00:00 UTC."
    assert "back to Staging" in _refusal(TimeInStagingGate(), candidate(staged_at_ms=None))

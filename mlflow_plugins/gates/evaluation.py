"""Asks every gate of the policy about one candidate."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.gates import facts, policy_file
from mlflow_plugins.gates.assessment import Assessment, GateResult
from mlflow_plugins.gates.candidacy import Candidacy
from mlflow_plugins.gates.gate import Gate, Verdict, refused
from mlflow_plugins.gates.policy_file import PolicyError

if TYPE_CHECKING:
    from mlflow.store.model_registry.abstract_store import AbstractStore

    from mlflow_plugins.gates.situation import Situation

_log: Final = logging.getLogger(__name__)


def assess(store: AbstractStore, situation: Situation) -> tuple[Assessment, bool]:
    """Ask every gate, also after one refused, without holding any lock.

    Returns:
        What they say, and whether it depends on which version is in Production.
    """
    try:
        in_force = policy_file.current()
    except PolicyError as error:
        return forbidden(situation, _closed(error)), False
    candidacy = _candidacy(store, situation)
    chosen = in_force.gates(situation.model.workspace, situation.model.name)
    asked = [gate for gate in chosen if gate.on_rollback or not situation.rollback]
    assessment = Assessment(
        **_heading(situation),
        refusal=None,
        results=tuple(_ask(gate, candidacy) for gate in asked),
        skipped=tuple(gate.name for gate in chosen if gate not in asked),
        policy=in_force.origin(),
    )
    return assessment, candidacy.asked_for_production


def forbidden(situation: Situation, refusal: str) -> Assessment:
    """The assessment of a move that no gate is asked about, because `refusal` stands before them."""
    return Assessment(**_heading(situation), refusal=refusal, results=(), skipped=(), policy={})


def _closed(error: PolicyError) -> str:
    return (
        "Nothing can be promoted while the promotion policy is broken. "
        f"{error} Mend it; `ai-hub policy check` tells whether it is right."
    )


def _heading(situation: Situation) -> dict[str, Any]:
    return {
        "model": situation.model.name,
        "version": situation.candidate.version,
        "semantic_version": situation.candidate.semantic_version,
        "stage": situation.stage,
        "rollback": situation.rollback,
        "displaces": situation.production.version if situation.production else None,
    }


def _candidacy(store: AbstractStore, situation: Situation) -> Candidacy:
    model, production = situation.model, situation.production
    return Candidacy(
        tenant=model.workspace,
        model=model.name,
        facts=facts.facts(store, model, situation.candidate),
        rollback=situation.rollback,
        actor=situation.actor,
        reason=situation.reason,
        registered_by=situation.registered_by,
        staged_at_ms=situation.staged_at_ms,
        now_ms=get_current_time_millis(),
        verify=partial(facts.verify, model, situation.candidate),
        find_production=lambda: facts.facts(store, model, production) if production else None,
    )


def _ask(gate: Gate, candidacy: Candidacy) -> GateResult:
    try:
        verdict = gate.check(candidacy)
    except MlflowException as error:
        verdict = Verdict(passed=False, text=str(error.message))
    except Exception as error:  # noqa: BLE001 - a gate may be anybody's, and what is not known to be right does not pass
        _log.exception("Gate %s broke", gate.name)
        verdict = refused(
            f"The gate itself is defective ({type(error).__name__}: {error}).",
            "Its traceback is in the server's log; the policy can turn it off meanwhile.",
        )
    return GateResult(gate.name, verdict.passed, verdict.text, verdict.evidence)

"""Asks every gate of the policy about one candidate."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_CONFLICT
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.gates import policy_file
from mlflow_plugins.gates.assessment import Assessment, GateResult
from mlflow_plugins.gates.context import verify_version, version_info
from mlflow_plugins.gates.gate import Candidate, Gate, Verdict, refused
from mlflow_plugins.gates.policy_file import PolicyError

if TYPE_CHECKING:
    from mlflow.store.model_registry.abstract_store import AbstractStore

    from mlflow_plugins.gates.context import PromotionContext

_log: Final = logging.getLogger(__name__)


def assess(store: AbstractStore, context: PromotionContext) -> tuple[Assessment, bool]:
    """Ask every gate, also after one refused, without holding any lock.

    Returns:
        What they say, and whether it depends on which version is in Production.
    """
    try:
        in_force = policy_file.current()
    except PolicyError as error:
        return forbidden(context, _closed(error)), False
    candidate = _candidate(store, context)
    chosen = in_force.gates(context.model.workspace, context.model.name)
    asked = [gate for gate in chosen if gate.on_rollback or not context.rollback]
    assessment = Assessment(
        **_heading(context),
        refusal=None,
        results=tuple(_ask(gate, candidate) for gate in asked),
        skipped=tuple(gate.name for gate in chosen if gate not in asked),
        policy=in_force.origin(),
    )
    return assessment, candidate.compared_with_production


def forbidden(context: PromotionContext, refusal: str) -> Assessment:
    """The assessment of a move that no gate is asked about, because `refusal` stands before them."""
    return Assessment(**_heading(context), refusal=refusal, results=(), skipped=(), policy={})


def _closed(error: PolicyError) -> str:
    return (
        "Nothing can be promoted while the promotion policy is broken. "
        f"{error} Mend it; `ai-hub policy check` tells whether it is right."
    )


def _heading(context: PromotionContext) -> dict[str, Any]:
    return {
        "model": context.model.name,
        "version": context.candidate.version,
        "semantic_version": context.candidate.semantic_version,
        "stage": context.stage,
        "rollback": context.rollback,
        "displaces": context.production.version if context.production else None,
    }


def _candidate(store: AbstractStore, context: PromotionContext) -> Candidate:
    model, production = context.model, context.production
    return Candidate(
        tenant=model.workspace,
        model=model.name,
        info=version_info(store, model, context.candidate),
        rollback=context.rollback,
        actor=context.actor,
        reason=context.reason,
        registered_by=context.registered_by,
        staged_at_ms=context.staged_at_ms,
        now_ms=get_current_time_millis(),
        verify=partial(verify_version, model, context.candidate),
        find_production=lambda: version_info(store, model, production) if production else None,
    )


def _ask(gate: Gate, candidate: Candidate) -> GateResult:
    try:
        verdict = gate.check(candidate)
    except MlflowException as error:
        verdict = Verdict(passed=False, text=str(error.message))
    except Exception as error:  # noqa: BLE001 - a gate may be anybody's, and what is not known to be right does not pass
        _log.exception("Gate %s broke", gate.name)
        verdict = refused(
            f"The gate itself is defective ({type(error).__name__}: {error}).",
            "Its traceback is in the server's log; the policy can turn it off meanwhile.",
        )
    return GateResult(gate.name, verdict.passed, verdict.text, verdict.evidence)


class GateRefusalError(MlflowException):
    """Gates refuse a promotion (HTTP 409); `evidence` is what they saw."""

    def __init__(self, message: str, evidence: dict[str, Any]) -> None:
        super().__init__(message, RESOURCE_CONFLICT)
        self.evidence = evidence

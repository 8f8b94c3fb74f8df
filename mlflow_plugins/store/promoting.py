"""Promotions: what the gates say, the move into Production, and who hears that it was refused."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.errors import conflict
from mlflow_plugins.gates import evaluation
from mlflow_plugins.gates.evaluation import GateRefusalError
from mlflow_plugins.lifecycle import audit, rules, stages
from mlflow_plugins.notifications import outbox, receivers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_plugins.gates.assessment import Assessment
    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

#: How often a promotion asks its gates anew because others were faster.
_ATTEMPTS: Final = 5
#: What a promotion is refused with, where it is not the request that is wrong.
_REFUSED: Final = (HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN)
_log: Final = logging.getLogger(__name__)


class Promotions:
    """Promotes versions of one registry."""

    def __init__(self, store: LifecycleStore) -> None:
        self._store = store

    def promote(
        self, name: str, version: int | str, cause: stages.Cause, *, archive_others: bool
    ) -> list[Transition]:
        """Move a version into Production; see `LifecycleStore.move_version`.

        The gates are asked before the lock, because they read files; under it, all must still hold.
        """
        with self._told_refusals(name, version, cause):
            for _ in range(_ATTEMPTS):
                with self._store.sessions() as session:
                    row = self._store.version_row(session, name, version)
                    model = self._store.model_key(session, name)
                    stages.check_move(session, model, row, rules.PRODUCTION)
                    judged = evaluation.read_context(session, model, row, cause)
                assessment, by_production = evaluation.assess(self._store, judged)
                if (refusal := assessment.refusal_text()) is not None:
                    raise GateRefusalError(refusal, assessment.evidence())
                with self._store.locked(name, version) as (session, model, row):
                    present = evaluation.read_context(session, model, row, cause)
                    if judged.still_holds(present, production_matters=by_production):
                        because = stages.Cause(present.actor, present.reason, assessment.evidence())
                        return stages.move(
                            session,
                            model,
                            row,
                            rules.PRODUCTION,
                            archive_others=archive_others,
                            cause=because,
                        )
            raise conflict(
                f"Version {version} of model {name} stays as it is: while its gates were asked, somebody "
                f"changed what they compared it with, {_ATTEMPTS} times. Look at the model's history, then "
                "promote again."
            )

    def assess(self, name: str, version: int | str, cause: stages.Cause) -> Assessment:
        """What promoting a version would meet now; changes nothing."""
        with self._store.sessions() as session:
            row = self._store.version_row(session, name, version)
            model = self._store.model_key(session, name)
            present = evaluation.read_context(session, model, row, cause)
            refusal = stages.refusal(session, model, row, rules.PRODUCTION)
        if refusal is not None:
            return evaluation.forbidden(present, refusal)
        assessment, _ = evaluation.assess(self._store, present)
        return assessment

    def last_in_production(self, name: str) -> int:
        """The archived version that was in Production last.

        Raises:
            MlflowException: 409, there is none.
        """
        with self._store.sessions() as session:
            model = self._store.model_key(session, name)
            archived = {row.version for row in stages.versions_of(session, model, rules.ARCHIVED)}
            for version in audit.last_in_production(session, model):
                if version in archived:
                    return version
        raise conflict(f"There is nothing to roll back to: no archived version of {name} was in Production.")

    @contextmanager
    def _told_refusals(self, name: str, version: int | str, cause: stages.Cause) -> Iterator[None]:
        """Tell whoever is to hear of a promotion that this block refuses."""
        try:
            yield
        except MlflowException as error:
            if error.get_http_status_code() in _REFUSED:
                self._tell_refusal(name, version, cause, error)
            raise

    def _tell_refusal(
        self, name: str, version: int | str, cause: stages.Cause, error: MlflowException
    ) -> None:
        workspace = self._store.tenant()
        if not outbox.is_heard(workspace, receivers.REFUSAL):
            return
        try:
            with self._store.transaction() as session:
                row = self._store.version_row(session, name, version)
                if row.current_stage == rules.PRODUCTION:
                    return  # it is there already
                because = stages.with_tags(session, row, cause)
                event = receivers.Event(
                    kind=receivers.REFUSAL,
                    workspace=workspace,
                    model=name,
                    version=row.version,
                    semantic_version=stages.semantic_version(session, row),
                    actor=because.actor.name,
                    actor_source=because.actor.source,
                    reason=because.reason,
                    at_ms=get_current_time_millis(),
                    from_stage=row.current_stage,
                    message=str(error.message),
                    evidence=getattr(error, "evidence", {}),
                )
                outbox.add(session, event)
        except MlflowException:  # what is refused is said in any case
            _log.warning("Nobody is told that a promotion of %s was refused.", name, exc_info=True)

"""How models, versions and their folders go."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.errors import conflict, is_missing
from mlflow_plugins.lifecycle import audit, rules, stages
from mlflow_plugins.registration import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.registration.records import Record
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

_logger: Final = logging.getLogger(__name__)


class Deletions:
    """Deletes registered models and versions of one registry, with their artifacts.

    Args:
        store: the registry.
        delete_version: MLflow's own deletion of a version's rows.
        delete_model: MLflow's own deletion of a model's rows.
    """

    def __init__(
        self,
        store: LifecycleStore,
        *,
        delete_version: Callable[[str, int | str], None],
        delete_model: Callable[[str], None],
    ) -> None:
        self._store = store
        self._delete_version = delete_version
        self._delete_model = delete_model

    def version(
        self, name: str, version: int | str, *, force: bool, reason: str | None, claim: str | None
    ) -> list[str]:
        """Delete a version that is archived (`force`: in any stage); returns the files deleted."""
        cause = stages.Cause.of_request({"forced": force}, reason=reason, claim=claim)
        workspace = self._store.tenant()
        with audit.refusals(workspace, name, version, rules.DELETED, claim), records.lease_holder() as me:
            try:
                with self._store.locked(name, version) as (session, model, row):
                    _check_deletable(model, row.version, row.current_stage, force=force)
                    stages.record_deletion(session, model, row, cause)
                    marked = records.mark_deleting(session, model, me, row.version)
                    self._delete_version(name, version)
                    stages.mirror_aliases(session, model)
            except MlflowException as error:
                marked = self._interrupted(error, name, me, version)
            deleted = self._delete_files(marked)
        self.clean_up(name)
        return deleted

    def model(self, name: str) -> None:
        """Delete a model all of whose versions are archived."""
        cause = stages.Cause.of_request({"with_model": True})
        with records.lease_holder() as me:
            try:
                with self._store.lock(name) as (session, model):
                    for version in stages.versions_of(session, model):
                        _check_deletable(model, version.version, version.current_stage, force=False)
                        stages.record_deletion(session, model, version, cause)
                    marked = records.mark_deleting(session, model, me)
                    session.flush()
                    self._delete_model(name)
            except MlflowException as error:
                marked = self._interrupted(error, name, me)
            self._delete_files(marked)
        self.clean_up(name)

    def clean_up(self, name: str) -> None:
        """Delete what others have left behind; what cannot be deleted now, the next caller will."""
        workspace = self._store.tenant()
        with self._store.sessions() as session:
            if not records.has_orphans(session, workspace, name):
                return
        with records.lease_holder() as me:
            with self._store.transaction() as session:
                left = records.collect_orphans(session, workspace, name, me)
            try:
                self._delete_files(left)
            except MlflowException:
                _logger.warning("Could not delete what is left of %s", left, exc_info=True)

    def _interrupted(
        self, error: MlflowException, name: str, holder: str, version: int | str | None = None
    ) -> list[Record]:
        """What an interrupted deletion left of what is not there any more; else raises `error`."""
        if is_missing(error) and not rules.is_too_large(version or 0):
            number = None if version is None else int(version)
            with self._store.transaction() as session:
                left = records.resume_deletion(session, self._store.tenant(), name, holder, number)
            if left:
                return left
        raise error

    def _delete_files(self, marked: list[Record]) -> list[str]:
        """Delete the folders of deleted versions; returns the files as tenant/model/number/path."""
        workspace = self._store.tenant()
        destination = current_destination()
        deleted: list[str] = []
        for record in marked:
            if record.location and destination:
                folder = destination.folder(record.location, workspace)
                root = f"{workspace}/{record.name}/{record.semantic_version}"
                deleted += [f"{root}/{path}" for path in folder.delete()]
            with self._store.transaction() as session:
                records.finish_deletion(session, record)
        return deleted


def _check_deletable(model: ModelKey, version: int, stage: str, *, force: bool) -> None:
    refusal = rules.refusal_to_delete(stage)
    if refusal and not force:
        raise conflict(f"Version {version} of model {model.name} stays. {refusal}")

"""The part of the lifecycle store in which models, versions and their folders go."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.errors import conflict, is_missing
from mlflow_plugins.lifecycle import audit, rules, stages
from mlflow_plugins.registration import records
from mlflow_plugins.store.base import BaseStore, is_too_large

if TYPE_CHECKING:
    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.registration.records import Record

_logger: Final = logging.getLogger(__name__)


class DeletingStore(BaseStore):
    """Deletes registered models, versions and their artifacts."""

    def delete_model_version(self, name: str, version: int | str) -> None:
        """Delete an archived version and exactly its folder."""
        if self._is_prompt(name):
            super().delete_model_version(name, version)
        else:
            self.remove_version(name, version)

    def remove_version(
        self,
        name: str,
        version: int | str,
        *,
        force: bool = False,
        reason: str | None = None,
        claim: str | None = None,
    ) -> list[str]:
        """Delete a version that is archived (`force`: in any stage); returns the files deleted."""
        cause = stages.Cause.of_request({"forced": force}, reason=reason, claim=claim)
        workspace = self._get_active_workspace()
        with audit.refusals(workspace, name, version, rules.DELETED, claim), records.lease_holder() as me:
            try:
                with self._locked(name) as (session, model):
                    row = self._get_sql_model_version(session, name, version)
                    _check_deletable(model, row.version, row.current_stage, force=force)
                    stages.record_deletion(session, model, row, cause)
                    marked = records.mark_deleting(session, model, me, row.version)
                    super().delete_model_version(name, version)
                    stages.mirror_aliases(session, model)
            except MlflowException as error:
                marked = self._interrupted(error, name, me, version)
            deleted = self._delete_files(marked)
        self._clean_up(name)
        return deleted

    def delete_registered_model(self, name: str) -> None:
        """Delete a model all of whose versions are archived, and its artifacts."""
        if self._is_prompt(name):
            super().delete_registered_model(name)
            return
        cause = stages.Cause.of_request({"with_model": True})
        with records.lease_holder() as me:
            try:
                with self._locked(name) as (session, model):
                    for version in stages.versions_of(session, model):
                        _check_deletable(model, version.version, version.current_stage, force=False)
                        stages.record_deletion(session, model, version, cause)
                    marked = records.mark_deleting(session, model, me)
                    session.flush()
                    super().delete_registered_model(name)
            except MlflowException as error:
                marked = self._interrupted(error, name, me)
            self._delete_files(marked)
        self._clean_up(name)

    def _interrupted(
        self, error: MlflowException, name: str, owner: str, version: int | str | None = None
    ) -> list[Record]:
        """What an interrupted deletion left of what is not there any more; else raises `error`."""
        if is_missing(error) and not is_too_large(version or 0):
            with self._sessions.transaction() as session:
                left = records.resume_deletion(
                    session,
                    self._get_active_workspace(),
                    name,
                    owner,
                    None if version is None else int(version),
                )
            if left:
                return left
        raise error

    def _delete_files(self, marked: list[Record]) -> list[str]:
        """Delete the folders of deleted versions; returns the files as tenant/model/number/path."""
        workspace = self._get_active_workspace()
        destination = current_destination()
        deleted: list[str] = []
        for record in marked:
            if record.location and destination:
                folder = destination.folder(record.location, workspace)
                root = f"{workspace}/{record.name}/{record.semantic_version}"
                deleted += [f"{root}/{path}" for path in folder.delete()]
            with self._sessions.transaction() as session:
                records.finish_deletion(session, record)
        return deleted

    def _clean_up(self, name: str) -> None:
        """Delete what others have left behind; what it cannot delete, the next one will."""
        workspace = self._get_active_workspace()
        with self._sessions() as session:
            if not records.has_orphans(session, workspace, name):
                return
        with records.lease_holder() as me:
            with self._sessions.transaction() as session:
                left = records.collect_orphans(session, workspace, name, me)
            try:
                self._delete_files(left)
            except MlflowException:
                _logger.warning("Could not delete what is left of %s", left, exc_info=True)


def _check_deletable(model: ModelKey, version: int, stage: str, *, force: bool) -> None:
    refusal = rules.refusal_to_delete(stage)
    if refusal and not force:
        raise conflict(f"Version {version} of model {model.name} stays. {refusal}")

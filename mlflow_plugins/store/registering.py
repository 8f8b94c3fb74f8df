"""The part of the lifecycle store in which models, versions and their folders come and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry import ModelVersionTag

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.artifacts.layout import check_model_name
from mlflow_plugins.errors import bad_input, conflict
from mlflow_plugins.lifecycle import rules, semver, stages
from mlflow_plugins.registration import claims, publishing, sources
from mlflow_plugins.registration.publishing import Candidate
from mlflow_plugins.registration.sources import Origin
from mlflow_plugins.store.base import BaseStore, is_prompt_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from mlflow_plugins.artifacts.manifest import Sealed
    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.registration.claims import Record

#: Version tags that only this store writes.
OWN_TAGS = frozenset({manifest.TAG, publishing.ORIGIN_TAG})


@dataclass(frozen=True)
class _Request:
    """What `create_model_version` was asked for, and what it found out about it."""

    name: str
    source: str
    tags: dict[str, str]
    run_link: str | None
    description: str | None
    origin: Origin
    candidate: Candidate


class RegisteringStore(BaseStore):
    """Creates and deletes registered models, versions and their artifacts."""

    def create_registered_model(
        self,
        name: str,
        tags: Sequence[Any] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> RegisteredModel:
        """Create a model; its name must be usable as a folder name."""
        if not is_prompt_request(tags):
            check_model_name(name)
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a model that never had a version; afterwards the name is part of its artifacts' path."""
        if self._is_prompt(name):
            return super().rename_registered_model(name, new_name)
        check_model_name(new_name)
        with self._locked(name) as (session, model):
            if claims.exist(session, model):
                raise conflict(
                    f"Model {name} has versions, whose artifacts and audit trail carry its name. "
                    f"Copy the version you need to a new model {new_name} instead."
                )
            return super().rename_registered_model(name, new_name)

    def create_model_version(  # noqa: PLR0917 - MLflow's signature
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Sequence[Any] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Register a version in Staging, with its artifacts in their own folder."""
        if self._is_prompt(name):
            if not is_prompt_request(tags):
                raise bad_input(f"{name} is a prompt. Choose another name for the model.")
            return super().create_model_version(
                name, source, run_id, tags, run_link, description, local_model_path, model_id
            )
        check_model_name(name)
        given = {tag.key: tag.value for tag in tags or [] if tag.key not in OWN_TAGS}
        wanted = sources.wanted_version(given.get(semver.TAG))
        origin = sources.resolve(self, source, run_id, model_id)
        if origin.copied_from:
            given[publishing.ORIGIN_TAG] = origin.copied_from
        candidate = publishing.inspect(
            current_destination(),
            origin.location,
            self._get_active_workspace(),
            run_id=origin.run_id,
            model_id=origin.model_id,
            tags=given,
        )
        # a copy brings its number along as a wish; a number the caller chose is an order
        insist = given.get(semver.TAG) != origin.inherited_version
        with self._locked(name) as (session, model):
            claimed = claims.claim(session, model, wanted, candidate.interface, insist=insist)
        request = _Request(name, source, given, run_link, description, origin, candidate)
        return self._register(request, model, claimed)

    def _register(self, request: _Request, model: ModelKey, claimed: Record) -> ModelVersion:
        destination = current_destination()
        number = claimed.semantic_version
        request.tags[semver.TAG] = number
        location = destination.uri(model.workspace, model.name, number) if destination else None
        sealed = None
        try:
            if destination and location:
                identity = {
                    "tenant_id": model.workspace,
                    "model_name": model.name,
                    "semantic_version": number,
                }
                extra = {
                    "run_id": request.origin.run_id,
                    "description": request.description,
                    "tags": request.tags,
                }
                target = destination.folder(location, model.workspace)
                sealed = publishing.publish(request.candidate, target, identity, extra)
                request.tags[manifest.TAG] = sealed.manifest_sha256
            return self._insert(request, model, claimed, location, sealed)
        except BaseException:
            # the claim goes last: while it stands, nobody else writes to the folder
            if destination and location:
                destination.folder(location, model.workspace).delete()
            with self._sessions.transaction() as session:
                claims.release(session, claimed)
            raise

    def _insert(
        self, request: _Request, model: ModelKey, claimed: Record, location: str | None, sealed: Sealed | None
    ) -> ModelVersion:
        origin = request.origin
        with self._locked(request.name) as (session, present):
            if present != model:
                raise conflict(f"Model {request.name} was deleted during the registration. Register again.")
            created = super().create_model_version(
                request.name,
                request.source,
                origin.run_id,
                [ModelVersionTag(key, value) for key, value in request.tags.items()],
                request.run_link,
                request.description,
                None,
                origin.model_id,
            )
            version = self._get_sql_model_version(session, request.name, created.version)
            if location:
                version.storage_location = location
            claims.complete(session, claimed, version.version, location, sealed)
            evidence: dict[str, Any] = {"source": request.source, "run_id": origin.run_id}
            if sealed:
                evidence |= {"manifest_sha256": sealed.manifest_sha256, "size_bytes": sealed.size_bytes}
            cause = stages.Cause.of_request(evidence, claim=request.candidate.author)
            stages.enter_registry(session, model, version, cause)
            return self.get_model_version(request.name, created.version)

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
        with self._locked(name) as (session, model):
            row = self._get_sql_model_version(session, name, version)
            _check_deletable(model, row.version, row.current_stage, force=force)
            stages.record_deletion(session, model, row, cause)
            claims.mark_deleting(session, model, row.version)
            super().delete_model_version(name, version)
            stages.mirror_aliases(session, model)
        return self._delete_files(name)

    def delete_registered_model(self, name: str) -> None:
        """Delete a model all of whose versions are archived, and its artifacts."""
        if self._is_prompt(name):
            super().delete_registered_model(name)
            return
        cause = stages.Cause.of_request({"with_model": True})
        with self._locked(name) as (session, model):
            for version in stages.versions_of(session, model):
                _check_deletable(model, version.version, version.current_stage, force=False)
                stages.record_deletion(session, model, version, cause)
            claims.mark_deleting(session, model)
            session.flush()
            super().delete_registered_model(name)
        self._delete_files(name)

    def _delete_files(self, name: str) -> list[str]:
        """Delete the folders of deleted versions, also those an interrupted deletion left."""
        workspace = self._get_active_workspace()
        destination = current_destination()
        deleted: list[str] = []
        with self._sessions() as session:
            waiting = claims.to_delete(session, workspace, name)
        for record in waiting:
            if record.location and destination:
                folder = destination.folder(record.location, workspace)
                root = f"{workspace}/{name}/{record.semantic_version}"
                deleted += [f"{root}/{path}" for path in folder.delete()]
            with self._sessions.transaction() as session:
                claims.mark_gone(session, record)
        return deleted


def _check_deletable(model: ModelKey, version: int, stage: str, *, force: bool) -> None:
    refusal = rules.refusal_to_delete(stage)
    if refusal and not force:
        raise conflict(f"Version {version} of model {model.name} stays. {refusal}")

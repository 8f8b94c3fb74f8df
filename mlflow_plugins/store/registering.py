"""The part of the lifecycle store in which models, versions and their folders come to be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.artifacts.layout import check_model_name
from mlflow_plugins.errors import bad_input, conflict, is_missing
from mlflow_plugins.lifecycle import search, semver, stages
from mlflow_plugins.registration import imports, model_metadata, publishing, records
from mlflow_plugins.registration.publishing import NewVersion, Origin
from mlflow_plugins.store.base import is_prompt_request, is_too_large
from mlflow_plugins.store.deleting import DeletingStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.lifecycle.semver import SemanticVersion
    from mlflow_plugins.registration.imports import ExportedVersion
    from mlflow_plugins.registration.records import Record

#: Version tags that only this store writes.
OWN_TAGS: Final = frozenset({manifest.TAG, publishing.ORIGIN_TAG, model_metadata.CARD_TAG, imports.TAG})
#: Where an import's run has the model.
IMPORTED_FOLDER: Final = "model"


#: Characters of a tag or a description that is imported.
_LONGEST_TEXT: Final = 100_000


@dataclass(frozen=True)
class _Request:
    """What `create_model_version` was asked for, and what it found out about it."""

    name: str
    source: str
    tags: dict[str, str]
    run_link: str | None
    description: str | None
    origin: Origin
    candidate: NewVersion
    cause: stages.Cause


class RegisteringStore(DeletingStore):
    """Creates registered models, versions and their artifacts."""

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
            search.check_tags(tag.key for tag in tags or [])
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a model that never had a version; afterwards the name is part of its artifacts' path."""
        if self._is_prompt(name):
            return super().rename_registered_model(name, new_name)
        check_model_name(new_name)
        with self._locked(name) as (session, model):
            if records.exist(session, model):
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
        search.check_tags(tag.key for tag in tags or [])
        workspace = self._get_active_workspace()
        given = {tag.key: tag.value for tag in tags or [] if tag.key not in OWN_TAGS}
        wanted = publishing.parse_number(given.get(semver.TAG))
        origin = publishing.resolve_source(self, workspace, source, run_id, model_id)
        if origin.copied_from:
            given[publishing.ORIGIN_TAG] = origin.copied_from
        destination = current_destination()
        try:
            candidate = publishing.inspect(destination, origin, workspace, given)
        except MlflowException as error:
            logged = publishing.logged_by_run(source) if is_missing(error) else None
            if logged is None:
                raise
            # the run may log more models and metrics; the version is this one
            origin, source = logged, f"models:/{logged.model_id}"
            candidate = publishing.inspect(destination, origin, workspace, given)

        # the number of a copied version may be replaced, one that the caller chose may not
        insist = given.get(semver.TAG) != origin.inherited_version
        cause = stages.Cause.of_request({}, claim=candidate.author)
        request = _Request(name, source, given, run_link, description, origin, candidate, cause)
        return self._claim_and_register(request, wanted, insist=insist)

    def import_version(
        self,
        name: str,
        run_id: str,
        exported: ExportedVersion,
        *,
        semantic_version: str | None,
        reason: str | None = None,
        claim: str | None = None,
    ) -> ModelVersion:
        """Register what another registry, or another tenant, has exported; it enters in Staging.

        Args:
            name: the model.
            run_id: the run with the files in its folder `model`.
            exported: what they must be, and everything else about the version.
            semantic_version: its number; None for the next one.
            reason: why, for the audit trail.
            claim: whom the caller says it acts for.

        Raises:
            MlflowException: 400, the run's files are others; 409, the number is taken.
        """
        if self._is_prompt(name):
            raise bad_input(f"{name} is a prompt. Choose another name for the model.")
        wanted = publishing.parse_number(semantic_version)
        given = {key: text for key, text in exported.tags.items() if key not in OWN_TAGS}
        given.pop(search.STAGE_TAG, None)
        given.pop(semver.TAG, None)
        given[imports.TAG] = exported.origin.as_tag()
        for text in (exported.description, *given, *given.values()):
            stages.checked("A text of the export", text, _LONGEST_TEXT)
        run = MlflowClient().get_run(run_id)
        origin = Origin(f"{run.info.artifact_uri}/{IMPORTED_FOLDER}", run_id)
        candidate = publishing.inspect(current_destination(), origin, self._get_active_workspace(), given)
        promised = exported.fingerprints()
        if candidate.folder is None or candidate.files.keys() != promised.keys():
            raise bad_input(f"The files of run {run_id} are not those of {exported.origin}. Import it again.")
        why = f"Imported, as its export says: {exported.origin}." + (f" {reason}" if reason else "")
        cause = stages.Cause.of_request({"imported": exported.evidence()}, reason=why, claim=claim)
        request = _Request(
            name,
            origin.location,
            given,
            None,
            exported.description,
            origin,
            replace(candidate, promised=promised),
            cause,
        )
        return self._claim_and_register(request, wanted, insist=True)

    def _claim_and_register(
        self, request: _Request, wanted: SemanticVersion | None, *, insist: bool
    ) -> ModelVersion:
        destination = current_destination()

        def locate(number: str) -> str | None:
            return destination.uri(model.workspace, model.name, number) if destination else None

        with records.lease_holder() as me:
            with self._locked(request.name) as (session, model):
                claimed = records.acquire_claim(
                    session, model, me, wanted, request.candidate.interface, insist=insist, locate=locate
                )
            created = self._register(request, model, claimed)
        self._clean_up(request.name)
        return created

    def _register(self, request: _Request, model: ModelKey, claimed: Record) -> ModelVersion:
        destination = current_destination()
        request.tags[semver.TAG] = claimed.semantic_version
        digest = None
        try:
            if destination and claimed.location:
                identity = {
                    "tenant_id": model.workspace,
                    "model_name": model.name,
                    "semantic_version": claimed.semantic_version,
                }
                extra = {
                    "run_id": request.origin.run_id,
                    "description": request.description,
                    "tags": request.tags,
                }
                target = destination.folder(claimed.location, model.workspace)
                with records.renewing(lambda: self._renew(claimed)):
                    digest = publishing.publish(request.candidate, target, identity, extra)
                request.tags[manifest.TAG] = digest.manifest_sha256
                request.tags[model_metadata.CARD_TAG] = model_metadata.make_card(request.candidate, digest)
            return self._insert(request, model, claimed, digest)
        except BaseException:
            # what was copied stays for the next attempt
            with self._sessions.transaction() as session:
                records.release_claim(session, claimed)
            raise

    def _renew(self, claimed: Record) -> None:
        with self._sessions.transaction() as session:
            records.renew_claim(session, claimed)

    def _insert(
        self, request: _Request, model: ModelKey, claimed: Record, digest: ManifestDigest | None
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
            if claimed.location:
                version.storage_location = claimed.location
            records.complete_claim(session, claimed, version.version, digest)
            evidence: dict[str, Any] = {"source": request.source, "run_id": origin.run_id}
            if digest:
                evidence |= {"manifest_sha256": digest.manifest_sha256, "size_bytes": digest.size_bytes}
            cause = request.cause._replace(evidence={**evidence, **request.cause.evidence})
            stages.enter_registry(session, model, version, cause)
            return self.get_model_version(request.name, created.version)

    def get_model_version_download_uri(self, name: str, version: int | str) -> str:
        """Where a version's files are; two columns, as whoever loads a model waits for the answer."""
        if str(version).isdecimal() and not is_too_large(version):
            query: Any = sa.select(SqlModelVersion.storage_location, SqlModelVersion.source).where(
                SqlModelVersion.workspace == self._get_active_workspace(),
                SqlModelVersion.name == name,
                SqlModelVersion.version == int(version),
                SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
            )
            with self._sessions() as session:
                row = session.execute(query).first()
            if row is not None:
                return str(row.storage_location or row.source)
        return super().get_model_version_download_uri(name, version)  # which says what is wrong

    def manifest_digest_of(self, workspace: str, name: str, semantic_version: str) -> str | None:
        """SHA-256 of the manifest of a registered version; None when there is none by that number."""
        with self._sessions() as session:
            return records.manifest_digest_of(session, workspace, name, semantic_version)

    def registered_folders(self, workspace: str, name: str | None = None) -> list[str]:
        """Models of a tenant that have registered versions, or the numbers of those of model `name`."""
        with self._sessions() as session:
            return records.registered_folders(session, workspace, name)

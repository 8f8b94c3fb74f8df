"""How versions and their folders come to be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.errors import bad_input, conflict, is_missing
from mlflow_plugins.lifecycle import semver, stages
from mlflow_plugins.registration import imports, model_metadata, publishing, records
from mlflow_plugins.registration.publishing import NewVersion, Origin
from mlflow_plugins.store import tags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlflow.entities.model_registry import ModelVersion
    from sqlalchemy.orm import Session

    from mlflow_plugins.artifacts.manifest import ManifestDigest
    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.lifecycle.semver import SemanticVersion
    from mlflow_plugins.registration.imports import ExportedVersion
    from mlflow_plugins.registration.records import Record
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

#: Where an import's run has the model.
IMPORTED_FOLDER: Final = "model"
#: Characters of a tag or a description that is imported.
_LONGEST_TEXT: Final = 100_000


@dataclass(frozen=True)
class _Request:
    """What a registration was asked for, and what is known about it."""

    name: str
    source: str
    tags: dict[str, str]
    run_link: str | None
    description: str | None
    origin: Origin
    candidate: NewVersion
    cause: stages.Cause


class Registrations:
    """Registers versions of one registry in Staging, with their artifacts in folders of their own.

    Args:
        store: the registry.
        insert: MLflow's own `create_model_version`.
        clean_up: deletes what others have left behind in a model.
    """

    def __init__(
        self,
        store: LifecycleStore,
        *,
        insert: Callable[..., ModelVersion],
        clean_up: Callable[[str], None],
    ) -> None:
        self._store = store
        self._insert_row = insert
        self._clean_up = clean_up

    def register(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None,
        model_id: str | None,
        given: dict[str, str],
        run_link: str | None,
        description: str | None,
    ) -> ModelVersion:
        """Register a run's model, a logged model or a version of another model.

        Args:
            name: the model.
            source: where the files are.
            run_id: the run they come from.
            model_id: the logged model they are.
            given: the caller's tags.
            run_link: address of the run elsewhere.
            description: of the version.
        """
        given = tags.without_own(given)
        workspace = self._store.tenant()
        number = publishing.parse_number(given.get(semver.TAG))
        origin = publishing.resolve_source(self._store, workspace, source, run_id, model_id)
        if origin.copied_from:
            given[publishing.ORIGIN_TAG] = origin.copied_from
            given.pop(publishing.KEY_TAG, None)
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
        return self._claim_and_register(request, number, insist=insist)

    def import_version(
        self,
        name: str,
        run_id: str,
        exported: ExportedVersion,
        *,
        semantic_version: str | None,
        reason: str | None,
        claim: str | None,
    ) -> ModelVersion:
        """Register an export; see `LifecycleStore.import_version`."""
        number = publishing.parse_number(semantic_version)
        given = tags.without_own(exported.tags)
        given.pop(tags.STAGE, None)
        given.pop(semver.TAG, None)
        given.pop(publishing.KEY_TAG, None)
        given[imports.TAG] = exported.origin.as_tag()
        for text in (exported.description, *given, *given.values()):
            stages.checked("A text of the export", text, _LONGEST_TEXT)
        run = MlflowClient().get_run(run_id)
        origin = Origin(f"{run.info.artifact_uri}/{IMPORTED_FOLDER}", run_id)
        candidate = publishing.inspect(current_destination(), origin, self._store.tenant(), given)
        promised = exported.fingerprints()
        if candidate.folder is None or candidate.files.keys() != promised.keys():
            raise bad_input(f"The files of run {run_id} are not those of {exported.origin}. Import it again.")
        why = f"Imported, as its export says: {exported.origin}." + (f" {reason}" if reason else "")
        cause = stages.Cause.of_request({"imported": exported.evidence()}, reason=why, claim=claim)
        candidate = replace(candidate, promised=promised)
        request = _Request(name, origin.location, given, None, exported.description, origin, candidate, cause)
        return self._claim_and_register(request, number, insist=True)

    def _claim_and_register(
        self, request: _Request, number: SemanticVersion | None, *, insist: bool
    ) -> ModelVersion:
        destination = current_destination()

        def locate(semantic_version: str) -> str | None:
            return destination.uri(model.workspace, model.name, semantic_version) if destination else None

        with records.lease_holder() as me:
            with self._store.lock(request.name) as (session, model):
                _check_key(session, model, request.tags)
                claimed = records.acquire_claim(
                    session, model, me, number, request.candidate.interface, insist=insist, locate=locate
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
            with self._store.transaction() as session:
                records.release_claim(session, claimed)
            raise

    def _renew(self, claimed: Record) -> None:
        with self._store.transaction() as session:
            records.renew_claim(session, claimed)

    def _insert(
        self, request: _Request, model: ModelKey, claimed: Record, digest: ManifestDigest | None
    ) -> ModelVersion:
        origin = request.origin
        with self._store.lock(request.name) as (session, present):
            if present != model:
                raise conflict(f"Model {request.name} was deleted during the registration. Register again.")
            # another one with the same key may have been faster
            _check_key(session, model, request.tags)
            created = self._insert_row(
                request.name,
                request.source,
                origin.run_id,
                [ModelVersionTag(key, value) for key, value in request.tags.items()],
                request.run_link,
                request.description,
                None,
                origin.model_id,
            )
            version: Any = self._store.version_row(session, request.name, created.version)
            if claimed.location:
                version.storage_location = claimed.location
            records.complete_claim(session, claimed, version.version, digest)
            evidence: dict[str, Any] = {"source": request.source, "run_id": origin.run_id}
            if digest:
                evidence |= {"manifest_sha256": digest.manifest_sha256, "size_bytes": digest.size_bytes}
            cause = request.cause._replace(evidence={**evidence, **request.cause.evidence})
            stages.enter_registry(session, model, version, cause)
            return self._store.get_model_version(request.name, created.version)


def _check_key(session: Session, model: ModelKey, given: Mapping[str, str]) -> None:
    """Refuse a second version with the same key; the caller holds the model's lock.

    Raises:
        MlflowException: 409.
    """
    if (key := given.get(publishing.KEY_TAG)) is None:
        return
    row: Any = SqlModelVersionTag
    present = sa.select(row.version).where(
        row.workspace == model.workspace,
        row.name == model.name,
        row.key == publishing.KEY_TAG,
        row.value == key,
    )
    if (version := session.scalar(present)) is not None:
        raise conflict(f"Version {version} of {model.name} was registered with {publishing.KEY_TAG}={key}.")

"""The registry in the terms of the REST API. Its calls block; `RegistryExecutor` runs them in threads."""

from __future__ import annotations

import base64
import binascii
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ai_hub.api.model_ids import ModelId
from ai_hub.api.schemas import models as schemas
from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    ServiceDownError,
)
from ai_hub.forecasting import lineage
from ai_hub.forecasting.models.cache import UnusableCacheError
from ai_hub.forecasting.models.loading import ModelLoader, loader_of
from ai_hub.forecasting.models.registry import ProductionVersion
from ai_hub.registry import versions
from ai_hub.registry.metadata import UNKNOWN, model_metadata
from ai_hub.registry.registering import (
    FromFiles,
    FromLoggedModel,
    FromRun,
    RegistrationRequest,
    register,
)
from ai_hub.registry.versions import ModelVersion, require_version, search_newest_first
from ai_hub.servers import without_secrets
from mlflow_plugins.gates.comparison import records
from mlflow_plugins.lifecycle import rules, semver
from mlflow_plugins.registration.model_metadata import FEATURE_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ai_hub.forecasting.lineage import TrainedVersion

#: How MLflow's client begins when there was no answer; what follows are addresses and classes.
_NO_ANSWER = "API request to"
#: How our login refuses whoever has no role in a tenant, and MLflow a tenant that is not there.
_NO_ROLE = "You have no role in tenant"
_NO_WORKSPACE = "Workspace '"
_LONGEST_REASON = 300

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class FetchedModel:
    """A version whose files are in this machine's model cache."""

    found: ModelVersion
    loader: ModelLoader
    version: ProductionVersion
    #: None: it does not say
    feature_service: str | None
    #: that it was trained on; empty: it does not say
    assets: list[str]
    #: how far ahead it forecasts; None: the hour under way, or it does not say
    horizon_hours: float | None


class RegistryService:
    """The model registry on behalf of one user."""

    def __init__(self, user: str) -> None:
        self._user = user

    def register(self, body: schemas.RegisterRequest, target: str) -> schemas.RegisterResponse:
        """Register a version and bring it to stage `target`, as far as the gates let it."""
        request = RegistrationRequest(
            tenant=body.tenant_id,
            model=body.model_name,
            version=f"v{body.version.removeprefix('v')}" if body.version else None,
            metadata=body.document(),
            metrics=body.metrics.model_dump(exclude_unset=True, exclude_none=True),
            source=_source(body.files()),
            user=self._user,
        )
        with _errors_of(body.tenant_id):
            version = register(request)
        stage, message = _promote_registered(version, target)
        identity = _id(version)
        return schemas.RegisterResponse(
            model_id=str(identity),
            model_name=version.model,
            version=identity.version,
            stage=stage.lower(),
            status="registered",
            message=message,
            uploaded_at=version.registered_at,
        )

    def find(self, model_id: ModelId) -> schemas.ModelResponse:
        """One version."""
        with _errors_of(model_id.tenant):
            return _response(require_version(*model_id))

    def comparisons(self, model_id: ModelId) -> schemas.ComparisonList:
        """Comparisons of a version with those that were in production."""
        with _errors_of(model_id.tenant):
            version = require_version(*model_id)
        found = records(version.tags, version.tenant, version.model, version.version)
        return schemas.ComparisonList(model_id=str(_id(version)), comparisons=found)

    def trained_version(self, tenant: str, model: str, version: str) -> TrainedVersion:
        """One version with its training set."""
        with _errors_of(tenant):
            return lineage.trained_version(tenant, model, version)

    def trained_versions(self, tenant: str) -> list[TrainedVersion]:
        """The newest versions of a tenant with their training sets."""
        with _errors_of(tenant):
            return lineage.trained_versions(tenant)

    def search(
        self, tenant: str, model: str | None, stage: str | None, limit: int, offset: int
    ) -> schemas.ModelList:
        """Versions of a tenant, newest first."""
        with _errors_of(tenant):
            found = search_newest_first(tenant, model)
        if stage is not None:
            found = [version for version in found if version.stage == stage]
        shown = [_response(version) for version in found[offset : offset + limit]]
        return schemas.ModelList(models=shown, total=len(found), tenant_id=tenant)

    def fetch(self, tenant: str, model: str, version: str) -> FetchedModel:
        """A version (see `find_version`), with its files in this machine's model cache, verified."""
        semantic = semver.parsed(version)
        with _errors_of(tenant):
            if version.lower() == rules.PRODUCTION.lower():
                found = versions.production_version(tenant, model)
            else:
                found = versions.find_version(tenant, model, str(semantic or version))
            loader, cached = loader_of(found)
            try:
                loader.fetch(cached)
                card = loader.card(cached)
            except UnusableCacheError as error:
                raise ServiceDownError("The model cache", str(error.path), error.message) from error
        return FetchedModel(
            found,
            loader,
            cached,
            card.feature_service if card else found.tags.get(FEATURE_SERVICE),
            card.assets if card else [],
            card.horizon_hours if card else None,
        )

    def move(
        self, model_id: ModelId, target: str, reason: str | None, require_promoter: Callable[[], None]
    ) -> schemas.PromoteResponse:
        """Move a version; `require_promoter` is asked before one leaves Production."""
        with _errors_of(model_id.tenant):
            version = require_version(*model_id)
        if rules.PRODUCTION in {version.stage, target}:
            require_promoter()
        # somebody may promote it meanwhile, and then this caller may not be the one to move it
        expected = None if target == rules.PRODUCTION else version.stage
        with _errors_of(model_id.tenant):
            move = versions.promote(
                version.tenant,
                version.model,
                version.version,
                stage=target,
                reason=_without_nul(reason),
                expected=expected,
            )
        identity = _id(version)
        before = str(move.own.from_stage)
        told = [f"{version.model} {identity.version}: {before} → {move.own.to_stage}."]
        told += [f"{each.semantic_version or each.version} was archived." for each in move.displaced]
        return schemas.PromoteResponse(
            model_id=str(identity),
            model_name=version.model,
            version=identity.version,
            previous_stage=before.lower(),
            current_stage=move.own.to_stage.lower(),
            promoted_at=move.own.at,
            message=" ".join(told),
        )

    def delete(self, model_id: ModelId, *, force: bool) -> schemas.DeleteResponse:
        """Delete a version and its files."""
        with _errors_of(model_id.tenant):
            version = require_version(*model_id)
            try:
                files = versions.delete(version.tenant, version.model, version.version, force=force)
            except ConflictError as error:
                raise ConflictError(error.message, hint="By REST, force is `?force=true`.") from error
        identity = _id(version)
        return schemas.DeleteResponse(
            model_id=str(identity),
            model_name=version.model,
            version=identity.version,
            status="deleted",
            files_deleted=files,
            message=f"{version.model} {identity.version}, {version.stage}, is gone with {len(files)} files.",
        )


@contextmanager
def _errors_of(tenant: str) -> Iterator[None]:
    """Raise MLflow's errors about a tenant in the terms of the service."""
    grant = f"`ai-hub people grant ai-hub-service --tenant {tenant} --role approver --new-tenant`"
    missing = NotFoundError(
        f"There is no tenant {tenant} in the model registry, or this service has no role in it.",
        hint=f"The administrator opens it with {grant}, or without login by `ai_hub.registry.ensure_tenant` "
        "(see docs/service-models.md).",
    )
    try:
        yield
    except ForbiddenError as error:
        if error.message.startswith(_NO_ROLE):
            raise missing from error
        raise ForbiddenError(
            f"MLflow does not let this service do that in tenant {tenant}: {error.message}",
            hint=f"The administrator gives it the role with {grant}.",
        ) from error
    except NotFoundError as error:
        if error.message.startswith(f"{_NO_WORKSPACE}{tenant}'"):
            raise missing from error
        raise
    except ServiceDownError as error:
        raise _down(error) from error


def _down(error: ServiceDownError) -> ServiceDownError:
    """The error without what only the operator may read: logs, passwords in addresses, long texts."""
    reason = error.message.partition(" does not answer: ")[2] or error.message
    if _NO_ANSWER in reason:
        reason = "it took too long, or broke off"
    hint = "Ask again; /health/ready says when it is back."
    return ServiceDownError(
        error.service, without_secrets(error.endpoint), reason.splitlines()[0][:_LONGEST_REASON], hint=hint
    )


def _source(artifact: schemas.Artifact) -> FromRun | FromLoggedModel | FromFiles:
    if isinstance(artifact, schemas.RunArtifact):
        return FromRun(artifact.run_id, artifact.path)
    if isinstance(artifact, schemas.LoggedModelArtifact):
        return FromLoggedModel(artifact.model_id)
    files: dict[str, bytes] = {}
    for file in artifact.files:
        if file.path in files:
            raise BadInputError(f"File {file.path!a} is there twice.", hint="Send each file once.")
        try:
            files[file.path] = base64.b64decode(file.content, validate=True)
        except (binascii.Error, ValueError):
            raise BadInputError(
                f"The content of {file.path!a} is not Base64.", hint="Encode its bytes, without line ends."
            ) from None
    return FromFiles(files)


def _promote_registered(version: ModelVersion, target: str) -> tuple[str, str]:
    """Move a new version to stage `target`; returns its stage and a message."""
    number = _id(version).version
    done = f"{version.model} {number} is registered"
    if target == rules.STAGING:
        return version.stage, f"{done}, in staging."
    reason = f"registered by REST with stage {target.lower()}"
    try:
        with _errors_of(version.tenant):
            move = versions.promote(
                version.tenant, version.model, version.version, stage=target, reason=reason
            )
    except AiHubError as error:
        why = " ".join(filter(None, (error.message, error.hint)))
        return version.stage, f"{done}, and stays in staging instead of {target.lower()}: {why}"
    return move.own.to_stage, f"{done}, in {target.lower()}."


def _response(version: ModelVersion) -> schemas.ModelResponse:
    identity, stored = _id(version), model_metadata(version)
    metadata = _valid_fields(schemas.ModelMetadata, stored.metadata, {"model_type": UNKNOWN})
    return schemas.ModelResponse(
        model_id=str(identity),
        tenant_id=version.tenant,
        model_name=version.model,
        version=identity.version,
        stage=version.stage.lower(),
        metadata=metadata,
        metrics=_valid_fields(schemas.ModelMetrics, stored.metrics, {}),
        uploaded_at=version.registered_at,
        model_size_bytes=stored.size_bytes,
        model_type=metadata.model_type,
    )


def _valid_fields(kind: type[M], values: dict[str, Any], defaults: dict[str, Any]) -> M:
    """Those of `values` that are valid: any client of MLflow may have written them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = {each["loc"][0] for each in error.errors()}
        return kind.model_validate(
            {**defaults, **{name: value for name, value in values.items() if name not in wrong}}
        )


def _id(version: ModelVersion) -> ModelId:
    return ModelId(version.tenant, version.model, version.semantic_version or str(version.version))


def _without_nul(text: str | None) -> str | None:
    # PostgreSQL has no character of code 0
    return text.replace("\0", "�") if text else text

"""Which versions there are, and which one a person means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from ai_hub.errors import NotFoundError
from ai_hub.registry.server import connect, readable_errors
from ai_hub.registry.tenants import tenant_scope
from ai_hub.times import from_millis
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.lifecycle import rules, semver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow import MlflowClient

LATEST = "latest"
_PAGE = 1000


class NoSuchVersionError(NotFoundError):
    """The model exists, the version does not."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version of a tenant's model."""

    tenant: str
    model: str
    version: int
    semantic_version: str | None
    stage: str
    aliases: tuple[str, ...]
    run_id: str | None
    registered_at: datetime
    tags: dict[str, str]
    #: of its run; filled by `list_versions`
    metrics: dict[str, float]
    description: str | None = None

    @property
    def manifest_sha256(self) -> str | None:
        """SHA-256 of the manifest that seals its files; None when it has none."""
        return self.tags.get(manifest.TAG)


def list_versions(tenant: str, model: str | None = None) -> list[ModelVersion]:
    """Versions of one model or of all, by name, newest first, with the metrics of their runs.

    Raises:
        NotFoundError: no such tenant or model.
    """
    client = connect()
    with tenant_scope(tenant), readable_errors():
        names = [model] if model is not None else sorted({item.name for item in search(client, None)})
        found = [item for name in names for item in _versions(client, tenant, name)]
        found = [replace(item, metrics=_metrics(client, item.run_id)) for item in found]
    return sorted(found, key=lambda item: (item.model, -item.version))


def find_version(tenant: str, model: str, wanted: str | int) -> ModelVersion:
    """The version a person means.

    Args:
        tenant: whose model.
        model: its name.
        wanted: a number (`3`), a semantic version (`v1.2.0`), a stage (`production`), or `latest`: the
            newest version in Staging.

    Raises:
        NotFoundError: there is none, with what there is.
    """
    client = connect()
    with tenant_scope(tenant), readable_errors():
        present = _versions(client, tenant, model)
    matching = [item for item in present if _matches(item, str(wanted))]
    if matching:
        return max(matching, key=lambda item: item.version)
    if str(wanted) == LATEST:
        raise NoSuchVersionError(
            f"Model {model} of tenant {tenant} has no version in Staging, so there is no candidate.",
            hint=f"Name a version: --version. {_present(present)}",
        )
    near = semver.nearest(str(wanted), [item.semantic_version for item in present])
    raise NoSuchVersionError(
        f"Model {model} of tenant {tenant} has no version {str(wanted)!r}.",
        hint=(f"Did you mean {near}? " if near else "") + _present(present),
    )


def _present(present: list[ModelVersion]) -> str:
    known = ", ".join(f"{item.version} ({item.semantic_version or '-'}, {item.stage})" for item in present)
    return f"It has: {known or 'no versions yet; train and register one first'}."


def production_version(tenant: str, model: str) -> ModelVersion:
    """The version in Production.

    Raises:
        NotFoundError: there is none, or no such model.
    """
    try:
        return find_version(tenant, model, rules.PRODUCTION)
    except NoSuchVersionError as error:
        raise NotFoundError(
            f"No version of {model} (tenant {tenant}) is in Production.",
            hint=f"Promote one with `ai-hub promote {model} --tenant {tenant}`. {error.hint}",
        ) from error


def _matches(item: ModelVersion, wanted: str) -> bool:
    stage = rules.STAGING if wanted.lower() == LATEST else wanted
    return (
        str(item.version) == wanted
        or item.stage.lower() == stage.lower()
        or (item.semantic_version is not None and item.semantic_version == f"v{wanted.removeprefix('v')}")
    )


def _versions(client: MlflowClient, tenant: str, model: str) -> list[ModelVersion]:
    # a search does not tell aliases
    aliases = client.get_registered_model(model).aliases
    return [read_version(tenant, item, aliases) for item in search(client, model)]


def search(client: MlflowClient, model: str | None) -> list[Any]:
    """MLflow's entities of a model's versions, or of all of the current tenant."""
    found: list[Any] = []
    token: str | None = None
    condition = f"name = '{model}'" if model else None
    while True:
        page = client.search_model_versions(condition, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def read_version(tenant: str, item: Any, aliases: Mapping[str, Any] = MappingProxyType({})) -> ModelVersion:
    """A version from MLflow's own entity; `aliases` are those of its model, by name."""
    return ModelVersion(
        tenant=tenant,
        model=item.name,
        version=int(item.version),
        semantic_version=item.tags.get(semver.TAG),
        stage=item.current_stage,
        aliases=tuple(alias for alias, version in aliases.items() if int(version) == int(item.version)),
        run_id=item.run_id or None,
        registered_at=from_millis(item.creation_timestamp),
        tags=dict(item.tags),
        metrics={},
        description=item.description or None,
    )


def _metrics(client: MlflowClient, run_id: str | None) -> dict[str, float]:
    if run_id is None:
        return {}
    try:
        return dict(client.get_run(run_id).data.metrics)
    except MlflowException as error:
        # a run may be cleaned up; its registered version stays
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return {}
        raise

"""Which versions there are, and which one a person means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ai_hub.errors import NotFoundError
from ai_hub.registry.server import API, call, require_server
from ai_hub.registry.tenants import check_name
from ai_hub.times import from_millis
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.lifecycle import rules, semver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    check_name(tenant)
    require_server()
    names = [model] if model is not None else sorted({item.model for item in search(tenant)})
    found = [item for name in names for item in _versions(tenant, name)]
    found = [replace(item, metrics=_metrics(tenant, item.run_id)) for item in found]
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
    check_name(tenant)
    require_server()
    present = _versions(tenant, model)
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


def _versions(tenant: str, model: str) -> list[ModelVersion]:
    # a search does not tell aliases
    found = call("GET", f"{API}/registered-models/get", tenant=tenant, params={"name": model})
    aliases = {each["alias"]: each["version"] for each in found["registered_model"].get("aliases", ())}
    return search(tenant, model, aliases)


def search(
    tenant: str,
    model: str | None = None,
    aliases: Mapping[str, Any] = MappingProxyType({}),
    order_by: Sequence[str] = (),
) -> list[ModelVersion]:
    """Every version of a model, or of all of the tenant, with one call for each thousand.

    `aliases` are those of the model: version by name.
    """
    found: list[ModelVersion] = []
    wish: dict[str, Any] = {"max_results": _PAGE, "order_by": order_by}
    if model:
        wish["filter"] = f"name = '{model}'"
    while True:
        page = call("GET", f"{API}/model-versions/search", tenant=tenant, params=wish)
        found += [read_version(tenant, each, aliases) for each in page.get("model_versions", ())]
        wish["page_token"] = page.get("next_page_token")
        if not wish["page_token"]:
            return found


def get_version(tenant: str, model: str, version: str) -> ModelVersion:
    """One version by `v1.2.0` or MLflow's number, with one call.

    Raises:
        NotFoundError: there is none.
    """
    if version.isdecimal():
        route, key = "model-versions/get", "version"
    else:
        # the registry takes a semantic version for an alias
        route, key = "registered-models/alias", "alias"
    found = call("GET", f"{API}/{route}", tenant=tenant, params={"name": model, key: version})
    return read_version(tenant, found["model_version"])


def read_version(
    tenant: str, row: Mapping[str, Any], aliases: Mapping[str, Any] = MappingProxyType({})
) -> ModelVersion:
    """A version from the server's JSON; `aliases` are those of its model, by name."""
    number = int(row["version"])
    tags = {str(tag["key"]): str(tag.get("value", "")) for tag in row.get("tags", ())}
    return ModelVersion(
        tenant=tenant,
        model=row["name"],
        version=number,
        semantic_version=tags.get(semver.TAG),
        stage=row["current_stage"],
        aliases=tuple(alias for alias, version in aliases.items() if int(version) == number),
        run_id=row.get("run_id") or None,
        registered_at=from_millis(int(row["creation_timestamp"])),
        tags=tags,
        metrics={},
        description=row.get("description") or None,
    )


def _metrics(tenant: str, run_id: str | None) -> dict[str, float]:
    if run_id is None:
        return {}
    try:
        run = call("GET", f"{API}/runs/get", tenant=tenant, params={"run_id": run_id})["run"]
    except NotFoundError:  # a run may be cleaned up; its registered version stays
        return {}
    # JSON has no NaN, so some values are text
    return {each["key"]: float(each["value"]) for each in run["data"].get("metrics", ())}

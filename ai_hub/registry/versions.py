"""Which versions there are, and which one a caller means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

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
_NEWEST_FIRST: Final = ("creation_timestamp DESC", "name ASC", "version_number DESC")
#: Names that an error lists.
_LISTED: Final = 20


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
        """SHA-256 of its manifest; None when it has none."""
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
    """The version that `wanted` names.

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
    # a search does not return aliases
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
    parameters: dict[str, Any] = {"max_results": _PAGE, "order_by": order_by}
    if model:
        parameters["filter"] = f"name = '{model}'"
    while True:
        page = call("GET", f"{API}/model-versions/search", tenant=tenant, params=parameters)
        found += [read_version(tenant, each, aliases) for each in page.get("model_versions", ())]
        parameters["page_token"] = page.get("next_page_token")
        if not parameters["page_token"]:
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


def require_version(tenant: str, model: str, version: str) -> ModelVersion:
    """One version by `v1.2.0` or MLflow's number, with one call.

    Raises:
        NotFoundError: no such version, with what there is in the tenant.
    """
    check_name(tenant)
    require_server()
    try:
        return get_version(tenant, model, version)
    except NotFoundError as error:
        raise _no_version(tenant, model, version) from error


def search_newest_first(tenant: str, model: str | None) -> list[ModelVersion]:
    """Every version of a model, or of all of the tenant, newest first; one call for each thousand.

    Raises:
        NotFoundError: no such model, with those there are.
    """
    check_name(tenant)
    require_server()
    found = search(tenant, model, order_by=_NEWEST_FIRST)
    if model and not found:
        _require_model(tenant, model)
    return found


def _require_model(tenant: str, model: str) -> None:
    try:
        call("GET", f"{API}/registered-models/get", tenant=tenant, params={"name": model})
    except NotFoundError as error:
        raise _no_model(tenant, model) from error


def _no_version(tenant: str, model: str, version: str) -> NotFoundError:
    parameters = {
        "filter": f"name = '{model}'",
        "max_results": _LISTED + 1,
        "order_by": ["version_number DESC"],
    }
    page = call("GET", f"{API}/model-versions/search", tenant=tenant, params=parameters)
    present = [read_version(tenant, each) for each in page.get("model_versions", ())]
    if not present:
        return _no_model(tenant, model)
    near = semver.nearest(version, [item.semantic_version for item in present])
    known = [f"{item.semantic_version or item.version} ({item.stage})" for item in present]
    return NotFoundError(
        f"Model {model} of tenant {tenant} has no version {version}.",
        hint=(f"Did you mean {near}? " if near else "") + f"It has: {_join_names(known)}.",
    )


def _no_model(tenant: str, model: str) -> NotFoundError:
    # as MLflow's own client asks: prompts are no models
    parameters = {"filter": "tag.`mlflow.prompt.is_prompt` != 'true'", "max_results": _LISTED + 1}
    page = call("GET", f"{API}/registered-models/search", tenant=tenant, params=parameters)
    names = [each["name"] for each in page.get("registered_models", ())]
    if model in names:
        return NotFoundError(f"Model {model} of tenant {tenant} has no versions.", hint="Register one first.")
    return NotFoundError(
        f"Tenant {tenant} has no model {model}.",
        hint=f"It has: {_join_names(names)}." if names else "It has no models yet; register one first.",
    )


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")

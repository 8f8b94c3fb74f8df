"""Looking versions up with as few calls to MLflow as there can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ai_hub.errors import NotFoundError
from ai_hub.registry import versions
from ai_hub.registry.server import API, call, require_server
from ai_hub.registry.tenants import check_name
from mlflow_plugins.lifecycle import semver

if TYPE_CHECKING:
    from ai_hub.registry.versions import ModelVersion

_NEWEST_FIRST: Final = ("creation_timestamp DESC", "name ASC", "version_number DESC")
#: How many names an error tells.
_TOLD: Final = 20


def find(tenant: str, model: str, version: str) -> ModelVersion:
    """One version by `v1.2.0` or MLflow's number, with one call.

    Raises:
        NotFoundError: no such version, with what there is in the tenant.
    """
    check_name(tenant)
    require_server()
    try:
        return versions.get_version(tenant, model, version)
    except NotFoundError as error:
        raise _nothing(tenant, model, version) from error


def search(tenant: str, model: str | None) -> list[ModelVersion]:
    """Every version of a model, or of all of the tenant, newest first; one call for each thousand.

    Raises:
        NotFoundError: no such model, with those there are.
    """
    check_name(tenant)
    require_server()
    found = versions.search(tenant, model, order_by=_NEWEST_FIRST)
    if model and not found:
        _require_model(tenant, model)
    return found


def _require_model(tenant: str, model: str) -> None:
    try:
        call("GET", f"{API}/registered-models/get", tenant=tenant, params={"name": model})
    except NotFoundError as error:
        raise _no_model(tenant, model) from error


def _nothing(tenant: str, model: str, version: str) -> NotFoundError:
    wish = {"filter": f"name = '{model}'", "max_results": _TOLD + 1, "order_by": ["version_number DESC"]}
    page = call("GET", f"{API}/model-versions/search", tenant=tenant, params=wish)
    present = [versions.read_version(tenant, each) for each in page.get("model_versions", ())]
    if not present:
        return _no_model(tenant, model)
    near = semver.nearest(version, [item.semantic_version for item in present])
    known = [f"{item.semantic_version or item.version} ({item.stage})" for item in present]
    return NotFoundError(
        f"Model {model} of tenant {tenant} has no version {version}.",
        hint=(f"Did you mean {near}? " if near else "") + f"It has: {_listed(known)}.",
    )


def _no_model(tenant: str, model: str) -> NotFoundError:
    # as MLflow's own client asks: prompts are no models
    wish = {"filter": "tag.`mlflow.prompt.is_prompt` != 'true'", "max_results": _TOLD + 1}
    page = call("GET", f"{API}/registered-models/search", tenant=tenant, params=wish)
    names = [each["name"] for each in page.get("registered_models", ())]
    if model in names:
        return NotFoundError(f"Model {model} of tenant {tenant} has no versions.", hint="Register one first.")
    return NotFoundError(
        f"Tenant {tenant} has no model {model}.",
        hint=f"It has: {_listed(names)}." if names else "It has no models yet; register one first.",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", …" if len(names) > _TOLD else "")

"""Looking versions up with as few calls to MLflow as there can be."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException

from ai_hub.errors import NotFoundError
from ai_hub.registry.server import connect, readable_errors
from ai_hub.registry.tenants import tenant_scope
from ai_hub.registry.versions import read_version
from mlflow_plugins.lifecycle import semver

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ai_hub.registry.versions import ModelVersion

_PAGE: Final = 1000
_NEWEST_FIRST: Final = ["creation_timestamp DESC", "name ASC", "version_number DESC"]
#: How many names an error tells.
_TOLD: Final = 20


def find(tenant: str, model: str, version: str) -> ModelVersion:
    """One version by `v1.2.0` or MLflow's number, with one call.

    Raises:
        NotFoundError: no such version, with what there is in the tenant.
    """
    client = connect()
    with tenant_scope(tenant), readable_errors():
        try:
            if version.isdecimal():
                item = client.get_model_version(model, version)
            else:
                # the registry takes a semantic version for an alias
                item = client.get_model_version_by_alias(model, version)
        except MlflowException as error:
            if error.get_http_status_code() != HTTPStatus.NOT_FOUND:
                raise
            raise _nothing(client, tenant, model, version) from error
        return read_version(tenant, item)


def search(tenant: str, model: str | None) -> list[ModelVersion]:
    """Every version of a model, or of all of the tenant, newest first; one call for each thousand.

    Raises:
        NotFoundError: no such model, with those there are.
    """
    client = connect()
    found: list[ModelVersion] = []
    token: str | None = None
    condition = f"name = '{model}'" if model else None
    with tenant_scope(tenant), readable_errors():
        while True:
            page = client.search_model_versions(
                condition, max_results=_PAGE, order_by=_NEWEST_FIRST, page_token=token
            )
            found += [read_version(tenant, item) for item in page]
            token = page.token
            if not token:
                break
        if model and not found:
            _require_model(client, tenant, model)
    return found


def _require_model(client: MlflowClient, tenant: str, model: str) -> None:
    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.get_http_status_code() == HTTPStatus.NOT_FOUND:
            raise _no_model(client, tenant, model) from error
        raise


def _nothing(client: MlflowClient, tenant: str, model: str, version: str) -> NotFoundError:
    present = client.search_model_versions(
        f"name = '{model}'", max_results=_TOLD + 1, order_by=["version_number DESC"]
    )
    if not present:
        return _no_model(client, tenant, model)
    versions = _read(tenant, present)
    near = semver.nearest(version, [item.semantic_version for item in versions])
    known = [f"{item.semantic_version or item.version} ({item.stage})" for item in versions]
    return NotFoundError(
        f"Model {model} of tenant {tenant} has no version {version}.",
        hint=(f"Did you mean {near}? " if near else "") + f"It has: {_listed(known)}.",
    )


def _no_model(client: MlflowClient, tenant: str, model: str) -> NotFoundError:
    names = [item.name for item in client.search_registered_models(max_results=_TOLD + 1)]
    if model in names:
        return NotFoundError(f"Model {model} of tenant {tenant} has no versions.", hint="Register one first.")
    return NotFoundError(
        f"Tenant {tenant} has no model {model}.",
        hint=f"It has: {_listed(names)}." if names else "It has no models yet; register one first.",
    )


def _read(tenant: str, items: Any) -> list[ModelVersion]:
    return [read_version(tenant, item) for item in items]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", …" if len(names) > _TOLD else "")

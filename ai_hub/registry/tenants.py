"""A tenant is an MLflow workspace: made when it is missing, and chosen for a block or a whole process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from mlflow.utils.workspace_context import ServerWorkspaceContext
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from ai_hub.errors import BadInputError
from ai_hub.registry.server import connect, readable_errors, tracking_uri

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def ensure_tenant(tenant: str) -> None:
    """Create the tenant's workspace if it does not exist.

    Raises:
        BadInputError: no workspace can have this name.
        ForbiddenError: it is not one of yours, and only the administrator makes new ones.
    """
    if tenant == DEFAULT_WORKSPACE_NAME:
        return
    check_name(tenant)
    client = connect()
    with readable_errors():
        # with a login, this is what people may ask about tenants: which are theirs
        if tenant not in {workspace.name for workspace in client.list_workspaces()}:
            _create(client, tenant)


def tenant_scope(tenant: str) -> AbstractContextManager[str | None]:
    """Calls to MLflow in this block, and in this thread or task only, are about `tenant`.

    Unlike `mlflow.set_workspace` it leaves the process's environment alone, so threads may serve different
    tenants side by side. Threads that MLflow starts itself do not see it: use `enter_tenant` for training.
    """
    check_name(tenant)
    scope: AbstractContextManager[str | None] = ServerWorkspaceContext(tenant)
    return scope


def enter_tenant(tenant: str) -> None:
    """Make everything this process does from now on be about `tenant`, which is created if missing."""
    ensure_tenant(tenant)
    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_workspace(tenant)


def check_name(tenant: str) -> None:
    """Refuse what no workspace can be called.

    Raises:
        BadInputError: see above.
    """
    if tenant == DEFAULT_WORKSPACE_NAME:
        return
    try:
        WorkspaceNameValidator.validate(tenant)
    except MlflowException as error:
        raise BadInputError(
            f"{tenant!r} cannot be a tenant: {error.message}",
            hint="Use 2 to 63 lower-case letters, digits and hyphens, for example city-works.",
        ) from error


def _create(client: mlflow.MlflowClient, tenant: str) -> None:
    try:
        client.create_workspace(tenant)
    except MlflowException as error:
        # somebody else was faster
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise

"""Who looks at the page, which tenants they see, and what they may do there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.server.workspace_helpers import _get_workspace_store  # the one store of this process
from mlflow.utils.workspace_context import ServerWorkspaceContext
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from mlflow_plugins.errors import missing
from mlflow_plugins.users import permissions

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Rights:
    """What the visitor may do with a model, besides looking; without both its page has no buttons."""

    #: reject and restore
    change: bool
    #: promote and roll back
    approve: bool


def tenants() -> list[str]:
    """The tenants the visitor may see, in order; without workspaces there is one."""
    if not MLFLOW_ENABLE_WORKSPACES.get():
        return [DEFAULT_WORKSPACE_NAME]
    return sorted(permissions.visible_tenants(item.name for item in _get_workspace_store().list_workspaces()))


@contextmanager
def inside(tenant: str) -> Iterator[None]:
    """Calls to MLflow's stores in this block are about `tenant`.

    Raises:
        MlflowException: 404, whether there is no such tenant or the visitor may not see it.
    """
    if tenant not in tenants():
        raise missing(f"There is no tenant {tenant}, or you may not see it.")
    with ServerWorkspaceContext(tenant):
        yield


def rights(tenant: str, model: str) -> Rights:
    """What the visitor may do with a model of a tenant they are inside."""
    change = permissions.allowed("update", model)
    return Rights(change=change, approve=change and permissions.is_approver(tenant))

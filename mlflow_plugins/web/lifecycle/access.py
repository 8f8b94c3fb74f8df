"""Who looks at the page, which tenants they see, and what they may do there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.server.workspace_helpers import _get_workspace_store  # the one store of this process
from mlflow.utils.workspace_context import ServerWorkspaceContext
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from mlflow_plugins.errors import missing

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Rights:
    """What somebody may do in a tenant, besides looking."""

    #: reject and restore
    change: bool
    #: promote and roll back
    approve: bool


@dataclass(frozen=True)
class Visitor:
    """The person who asks; `name` is None where the server has no login."""

    name: str | None

    def tenants(self) -> list[str]:
        """Names of the tenants this person may see, in order."""
        return _all_tenants()

    def rights(self, tenant: str) -> Rights:
        """What this person may do in a tenant they see."""
        del tenant
        return Rights(change=True, approve=True)

    @contextmanager
    def inside(self, tenant: str) -> Iterator[None]:
        """Calls to MLflow's stores in this block are about `tenant`.

        Raises:
            MlflowException: 404, whether there is no such tenant or this person may not see it.
        """
        if tenant not in self.tenants():
            raise missing(f"There is no tenant {tenant}, or you may not see it.")
        with ServerWorkspaceContext(tenant):
            yield


def _visitor() -> Visitor:
    return Visitor(None)


def _all_tenants() -> list[str]:
    if not MLFLOW_ENABLE_WORKSPACES.get():
        return [DEFAULT_WORKSPACE_NAME]
    return sorted(workspace.name for workspace in _get_workspace_store().list_workspaces())


Asking = Annotated[Visitor, Depends(_visitor)]

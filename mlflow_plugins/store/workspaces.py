"""MLflow's workspaces where our registry runs: a tenant ends by the registry's rules, and begins empty."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import flask
import sqlalchemy as sa
from mlflow.entities.workspace import WorkspaceDeletionMode
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE, ErrorCode
from mlflow.store.workspace.dbmodels import SqlWorkspace
from mlflow.store.workspace.sqlalchemy_store import _WORKSPACE_ROOT_MODELS, SqlAlchemyStore

from mlflow_plugins.artifacts.destination import SERVE_ARTIFACTS
from mlflow_plugins.errors import bad_input, conflict, missing
from mlflow_plugins.lifecycle import audit_log, removals, stages
from mlflow_plugins.store.base import SCHEME_PREFIX
from mlflow_plugins.store.current import registry_store
from mlflow_plugins.store.tenants import Tenants

if TYPE_CHECKING:
    from mlflow.entities.workspace import Workspace

#: What `mlflow server` tells its workers about the registry.
REGISTRY_STORE: Final = "_MLFLOW_SERVER_REGISTRY_STORE"


def workspace_store(workspace_uri: str) -> SqlAlchemyStore:
    """MLflow's store of workspaces; ours in a server whose registry is ours (an entry point of MLflow)."""
    if os.environ.get(REGISTRY_STORE, "").startswith(SCHEME_PREFIX):
        return WorkspaceStore(workspace_uri)
    return SqlAlchemyStore(workspace_uri)


class WorkspaceStore(SqlAlchemyStore):
    """Creates and deletes workspaces; everything else is MLflow's."""

    def create_workspace(self, workspace: Workspace) -> Workspace:
        """Create a workspace, unless something of a former one of this name is left."""
        _check_artifact_root(workspace)
        if not self.exists(workspace.name):
            _tenants().require_free(workspace.name)
        return super().create_workspace(workspace)

    def update_workspace(self, workspace: Workspace) -> Workspace:
        """Change a workspace's settings."""
        _check_artifact_root(workspace)
        return super().update_workspace(workspace)

    def delete_workspace(
        self, workspace_name: str, mode: WorkspaceDeletionMode = WorkspaceDeletionMode.RESTRICT
    ) -> None:
        """Delete a workspace with all the registry has of it; killed midway, the same call goes on.

        A request may say `force=true` and `reason=…` (needed while something is in production), and
        `keep=true`, which leaves the files and reserves the name for good.

        Raises:
            MlflowException: 409, it is not empty (RESTRICT), something is in production (CASCADE), or it is
                SET_DEFAULT; 404, there is none.
        """
        arguments = flask.request.args if flask.has_request_context() else {}
        force, keep = (arguments.get(name, "").lower() == "true" for name in ("force", "keep"))
        cause = stages.Cause.of_request(
            {"with_tenant": True, **({"forced": True} if force else {})}, reason=arguments.get("reason")
        )
        with audit_log.refused_removals(workspace_name):
            self._check_mode(workspace_name, mode)
            tenants = _tenants()
            if self.exists(workspace_name):
                tenants.begin(workspace_name, cause, force=force)
                self._delete(workspace_name)
            else:
                last = tenants.removal(workspace_name)
                unfinished = last is not None and last.step in {removals.STARTED, removals.KEPT}
                if not unfinished:
                    if not tenants.has_traces(workspace_name):
                        raise missing(f"Workspace '{workspace_name}' not found")
                    tenants.begin(workspace_name, cause, force=force)
            tenants.finish(workspace_name, keep=keep)

    def contents(self, workspace_name: str) -> dict[str, int]:
        """Rows of each of MLflow's tables with resources of the workspace; those without any are left out."""
        counts = {}
        with self.ManagedSessionMaker() as session:
            kind: Any
            for kind in _WORKSPACE_ROOT_MODELS:
                query = sa.select(sa.func.count()).select_from(kind).where(kind.workspace == workspace_name)
                if count := session.scalar(query):
                    counts[str(kind.__tablename__)] = int(count)
        return counts

    def exists(self, workspace_name: str) -> bool:
        """Whether there is a workspace of this name."""
        with self.ManagedSessionMaker() as session:
            return session.get(SqlWorkspace, workspace_name) is not None

    def _delete(self, name: str) -> None:
        """Delete a workspace with what MLflow has of it."""
        try:
            super().delete_workspace(name, WorkspaceDeletionMode.CASCADE)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(INVALID_STATE):
                raise
            raise conflict(error.message) from error  # not a 500, which clients would repeat for a minute

    def _check_mode(self, name: str, mode: WorkspaceDeletionMode) -> None:
        if mode == WorkspaceDeletionMode.SET_DEFAULT:
            raise conflict(
                f"Workspace '{name}' stays: its models cannot move to 'default'. Their files, manifests and "
                "audit trail carry the tenant's name, so there they would neither load nor return. Register "
                "the versions you need in another tenant from their files, then delete this one with its "
                f"contents: mode CASCADE, or `ai-hub tenants remove {name} --reason '…'`."
            )
        if mode == WorkspaceDeletionMode.RESTRICT and (counts := self.contents(name)):
            what = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in counts.items())
            raise conflict(
                f"Workspace '{name}' stays: it is not empty ({what}). Delete these first, or delete it with "
                f"its contents: mode CASCADE, or `ai-hub tenants remove {name} --reason '…'`, which shows "
                "first what would go."
            )


def _check_artifact_root(workspace: Workspace) -> None:
    if workspace.default_artifact_root and os.environ.get(SERVE_ARTIFACTS) == "true":
        raise bad_input(
            "Leave the default artifact root empty: this server keeps the files of every tenant itself, each "
            "in a folder of its own, and registers models from there only."
        )


def _tenants() -> Tenants:
    return Tenants(registry_store())

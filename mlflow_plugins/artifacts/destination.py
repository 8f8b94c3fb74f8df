"""Where registered versions live, decided by how `mlflow server` was started.

- `--serve-artifacts --artifacts-destination minio://BUCKET`: the fixed layout, copied inside S3.
- `--serve-artifacts` with any other destination: the same folders under `.models/` of that destination,
  copied through the server. MLflow's proxy does not guard these against overwriting; verification does.
- `--no-serve-artifacts`: the same under `--default-artifact-root`.
- No server at all (a store opened in process): versions stay where they were logged, without a manifest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from mlflow.utils.uri import append_to_uri_path, resolve_uri_if_local
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from mlflow_plugins.artifacts.folders import RepositoryFolder
from mlflow_plugins.artifacts.layout import parse_proxy_path, proxied_path, tenant_path, version_path
from mlflow_plugins.artifacts.repository import SCHEME
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client
from mlflow_plugins.errors import bad_input

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.folders import Folder

# What `mlflow server` exports to its workers. `mlflow.server.constants` has them too, but importing that
# package builds the whole web application; a unit test keeps the two equal.
SERVE_ARTIFACTS: Final = "_MLFLOW_SERVER_SERVE_ARTIFACTS"
ARTIFACTS_DESTINATION: Final = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
ARTIFACT_ROOT: Final = "_MLFLOW_SERVER_ARTIFACT_ROOT"


class Sources(Protocol):
    """Finds the folder of what a version is registered from."""

    def folder(self, uri: str, tenant: str) -> Folder:
        """The folder `uri` names, which must belong to `tenant`."""


class Destination(Sources, Protocol):
    """Finds the folder of a registered version, too."""

    def tenant_folder(self, tenant: str) -> Folder:
        """The folder of all that is a tenant's (not `default`): runs, logged models, versions."""

    def uri(self, tenant: str, model: str, semantic_version: str) -> str:
        """Where clients download the version from."""


def current_destination() -> Destination | None:
    """The destination of this server process; None outside a server."""
    root = os.environ.get(ARTIFACTS_DESTINATION)
    if os.environ.get(SERVE_ARTIFACTS) == "true" and root:
        return served(root)
    if direct := os.environ.get(ARTIFACT_ROOT):
        return unserved(direct)
    return None


def served(root: str) -> Destination:
    """The destination of a server with `--serve-artifacts --artifacts-destination ROOT`.

    Raises:
        MlflowException: 400, it is a folder of a bucket whose layout is fixed.
    """
    parts = urlsplit(root)
    if parts.scheme != SCHEME:
        return _Proxied(root)
    if parts.path.strip("/"):
        raise bad_input(f"{root!r} has a path, but the layout of the bucket is fixed. Use minio://BUCKET.")
    return _Bucket(parts.netloc)


def unserved(root: str) -> Destination:
    """The destination of a server with `--no-serve-artifacts --default-artifact-root ROOT`."""
    return _Direct(resolve_uri_if_local(root))


@dataclass(frozen=True)
class AnySource:
    """Finds the files of versions that plain MLflow registered, also where a client has put them."""

    destination: Destination

    def folder(self, uri: str, tenant: str) -> Folder:
        """The folder `uri` names; one of the server itself must belong to `tenant`."""
        if proxied_path(uri) is None:
            return _repository_folder(resolve_uri_if_local(uri))
        return self.destination.folder(uri, tenant)


@dataclass(frozen=True)
class _Bucket:
    """The fixed layout, behind MLflow's artifact proxy."""

    bucket: str

    def tenant_folder(self, tenant: str) -> S3Folder:
        return S3Folder(s3_client(), self.bucket, _checked(tenant))

    def uri(self, tenant: str, model: str, semantic_version: str) -> str:
        return f"mlflow-artifacts:/{version_path(tenant, model, semantic_version)}"

    def folder(self, uri: str, tenant: str) -> S3Folder:
        located = parse_proxy_path(_own_path(uri, tenant), workspaces=MLFLOW_ENABLE_WORKSPACES.get())
        return S3Folder(s3_client(), self.bucket, located.key)


@dataclass(frozen=True)
class _Proxied:
    """Any other `--artifacts-destination`."""

    root: str

    def tenant_folder(self, tenant: str) -> RepositoryFolder:
        return _repository_folder(append_to_uri_path(self.root, tenant_path(_checked(tenant))))

    def uri(self, tenant: str, model: str, semantic_version: str) -> str:
        return f"mlflow-artifacts:/{version_path(tenant, model, semantic_version)}"

    def folder(self, uri: str, tenant: str) -> RepositoryFolder:
        return _repository_folder(append_to_uri_path(self.root, _own_path(uri, tenant)))


@dataclass(frozen=True)
class _Direct:
    """Clients reach `--default-artifact-root` themselves."""

    root: str

    def tenant_folder(self, tenant: str) -> RepositoryFolder:
        return _repository_folder(append_to_uri_path(self.root, tenant_path(_checked(tenant))))

    def uri(self, tenant: str, model: str, semantic_version: str) -> str:
        return str(append_to_uri_path(self.root, version_path(tenant, model, semantic_version)))

    def folder(self, uri: str, tenant: str) -> RepositoryFolder:
        del tenant  # MLflow checked that the source belongs to the run or model it was registered from
        return _repository_folder(uri)


def _checked(tenant: str) -> str:
    """The name of a tenant that has a folder of its own; any other would name somebody else's."""
    if tenant == DEFAULT_WORKSPACE_NAME:
        raise bad_input(f"Tenant {tenant} has no folder of its own.")
    WorkspaceNameValidator.validate(tenant)
    return tenant


def _repository_folder(uri: str) -> RepositoryFolder:
    return RepositoryFolder(get_artifact_repository(uri))


def _own_path(uri: str, tenant: str) -> str:
    path = proxied_path(uri)
    if path is None:
        raise bad_input(
            f"Cannot register from {uri!r}: this server only copies artifacts it stores itself. "
            "Log the model to a run on this server and register it from there."
        )
    located = parse_proxy_path(path, workspaces=MLFLOW_ENABLE_WORKSPACES.get())
    if located.tenant != tenant:
        raise bad_input(f"{uri!r} does not belong to workspace {tenant!r}.")
    if not located.parts:
        raise bad_input(f"{uri!r} names no model.")
    return path

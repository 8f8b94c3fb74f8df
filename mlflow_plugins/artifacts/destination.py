"""Where files are: the fixed layout of the bucket, proxy paths that lead there, and the server's destination.

    bucket key                                   proxy path (`mlflow-artifacts:/…`)
    {tenant}/{model}/{semantic version}/…        workspaces/{tenant}/.models/{model}/{semantic version}/…
    {tenant}/.runs/{experiment}/{run}/…          workspaces/{tenant}/{experiment}/{run}/…

The tenant `default` (and every path when workspaces are off) has no `workspaces/default/` in front, as in
MLflow itself. Model names start with a letter or digit, so `.runs` and `.models` never meet a model.

Where registered versions live is decided by how `mlflow server` was started:

- `--serve-artifacts --artifacts-destination minio://BUCKET`: the fixed layout, copied inside S3.
- `--serve-artifacts` with any other destination: the same folders under `.models/` of that destination,
  copied through the server. MLflow's proxy does not guard these against overwriting; verification does.
- `--no-serve-artifacts`: the same under `--default-artifact-root`.
- No server at all (a store opened in process): versions stay where they were logged, without a manifest.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from mlflow.utils.uri import append_to_uri_path, resolve_uri_if_local
from mlflow.utils.validation import _validate_model_name  # what MLflow's own stores ask first
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME, WORKSPACES_DIR_NAME

from mlflow_plugins.artifacts.folders import RepositoryFolder
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client
from mlflow_plugins.errors import bad_input

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.folders import Folder


#: Of URIs that name a bucket of ours.
SCHEME: Final = "minio"
MODELS_DIR: Final = ".models"
RUNS_DIR: Final = ".runs"
#: A registered version's folder is this deep below the tenant's models: model, semantic version.
VERSION_DEPTH: Final = 2
_PROXY_ROUTE: Final = "/api/2.0/mlflow-artifacts/artifacts/"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ProxyPath(NamedTuple):
    """A path under the artifact proxy, taken apart."""

    tenant: str
    #: Whether `parts` start at the tenant's registered models (else at its runs).
    registered: bool
    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key in the bucket, without a trailing slash."""
        return "/".join((self.tenant, *(() if self.registered else (RUNS_DIR,)), *self.parts))


def check_model_name(name: str) -> None:
    """Refuse names that could not be one folder of the bucket.

    Raises:
        MlflowException: 400.
    """
    if not name:
        _validate_model_name(name)
    if not _MODEL_NAME.fullmatch(name):
        raise bad_input(
            f"Model name {name!r} is not allowed because it names the folder of the model's artifacts. "
            "Use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit."
        )


def tenant_path(tenant: str) -> str:
    """The proxy path of all that is a tenant's (not `default`)."""
    return f"{WORKSPACES_DIR_NAME}/{tenant}"


def version_path(tenant: str, model: str, semantic_version: str) -> str:
    """The proxy path of a registered version's folder."""
    check_model_name(model)
    path = f"{MODELS_DIR}/{model}/{semantic_version}"
    return path if tenant == DEFAULT_WORKSPACE_NAME else f"{WORKSPACES_DIR_NAME}/{tenant}/{path}"


def parse_proxy_path(path: str | None, *, workspaces: bool) -> ProxyPath:
    """Take a path under the artifact proxy apart.

    Raises:
        MlflowException: 400 for a path that leaves its folder or names no workspace.
    """
    parts = tuple(part for part in (path or "").split("/") if part not in {"", "."})
    if ".." in parts or "\\" in (path or ""):
        raise bad_input("Artifact paths must not contain '..' or a backslash.")
    tenant = DEFAULT_WORKSPACE_NAME
    if workspaces and parts[:1] == (WORKSPACES_DIR_NAME,):
        if len(parts) == 1:
            raise bad_input("An artifact path under 'workspaces/' must name its workspace.")
        tenant, parts = parts[1], parts[2:]
    if parts[:1] == (MODELS_DIR,):
        return ProxyPath(tenant, registered=True, parts=parts[1:])
    return ProxyPath(tenant, registered=False, parts=parts)


def proxied_path(uri: str) -> str | None:
    """The path under the artifact proxy that `uri` names, or None when it names something else."""
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        return unquote(parts.path).lstrip("/")
    if parts.scheme in {"http", "https"} and _PROXY_ROUTE in parts.path:
        return unquote(parts.path.split(_PROXY_ROUTE, 1)[1]).lstrip("/")
    return None


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

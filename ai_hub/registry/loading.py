"""Downloading a registered version, each file checked against the manifest.

Files come through the registry's artifact proxy, or as MLflow's own client gets them.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, urlsplit

from ai_hub.errors import AiHubError, ConflictError
from ai_hub.registry.server import (
    API,
    address,
    call,
    check_name,
    needs_own_client,
    readable_errors,
    stream,
    tracking_uri,
)
from ai_hub.registry.tenants import tenant_scope
from ai_hub.registry.versions import ModelVersion, production_version
from mlflow_plugins.artifacts import folders, manifest
from mlflow_plugins.artifacts.folders import RepositoryFolder
from mlflow_plugins.artifacts.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from mlflow.store.artifact.artifact_repo import ArtifactRepository


_PROXY: Final = "/api/2.0/mlflow-artifacts/artifacts"
_PROXY_SCHEME: Final = "mlflow-artifacts"


class Repository(Protocol):
    """Files below one address; paths are relative to it."""

    address: str

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by path."""

    def download(self, path: str, local: str) -> None:
        """Write a file to `local`."""


@contextmanager
def repository(uri: str, tenant: str) -> Iterator[Repository]:
    """The files at an address that the registry gave.

    Raises:
        AiHubError: only MLflow can read them, and it is not installed.
    """
    parts = urlsplit(uri)
    if parts.scheme == _PROXY_SCHEME and not parts.netloc and not needs_own_client():
        yield _ProxyRepository(parts.path.strip("/"), tenant)
        return
    open_repository = _mlflow_opener(uri)
    with tenant_scope(tenant):
        yield _MlflowRepository(open_repository(uri, tracking_uri=tracking_uri()))


def _mlflow_opener(uri: str) -> Callable[..., ArtifactRepository]:
    """What opens the files at an address that the server does not hand out.

    Raises:
        AiHubError: MLflow is not installed.
    """
    try:
        from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415  # takes seconds
            get_artifact_repository,
        )
    except ModuleNotFoundError as error:
        raise AiHubError(
            f"The registry's server does not hand out the files at {uri}, and MLflow, which can read them, "
            "is not installed.",
            hint="Run `pip install 'ai-hub[server]'`, or have the server started with --serve-artifacts.",
        ) from error
    return get_artifact_repository


class _ProxyRepository:
    """Files that the registry's server hands out itself."""

    def __init__(self, root: str, tenant: str) -> None:
        self._root = root
        self._tenant = tenant
        self.address = f"{address()}{_PROXY}/{root}"

    def sizes(self) -> dict[str, int]:
        """See `Repository`."""
        found: dict[str, int] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            parameters = {"path": f"{self._root}/{folder}".rstrip("/")}
            for each in call("GET", _PROXY, tenant=self._tenant, params=parameters).get("files", ()):
                if each["is_dir"]:
                    waiting.append(f"{folder}{each['path']}/")
                else:
                    found[f"{folder}{each['path']}"] = int(each.get("file_size", 0))
        return found

    def download(self, path: str, local: str) -> None:
        """See `Repository`."""
        route = f"{_PROXY}/{quote(f'{self._root}/{path}')}"
        with stream(route, self._tenant) as chunks, Path(local).open("wb") as file:
            file.writelines(chunks)


class _MlflowRepository:
    """Files of any store that MLflow's own client reads."""

    def __init__(self, repository: ArtifactRepository) -> None:
        self._repository = repository
        self.address = str(self._repository.artifact_uri)

    def sizes(self) -> dict[str, int]:
        """See `Repository`."""
        return {path: file.size for path, file in RepositoryFolder(self._repository).files().items()}

    def download(self, path: str, local: str) -> None:
        """See `Repository`."""
        # `download_artifacts` would list everything again
        self._repository._download_file(path, local)  # noqa: SLF001  # what every repository implements


def load_production(
    tenant: str, model: str, loader: Callable[[str], Any] | None = None
) -> tuple[Any, ModelVersion]:
    """Load the version in Production; returns the model and which version it is.

    Args:
        tenant: whose model.
        model: its name.
        loader: makes the model from its folder; default: `mlflow.pyfunc.load_model`.

    Raises:
        ConflictError: a file is not what was registered.
        NotFoundError: nothing is in Production.
    """
    version = production_version(tenant, model)
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(download_version(version, Path(scratch)))
        return (loader or _load_pyfunc)(folder), version


def download_version(version: ModelVersion, folder: Path) -> Path:
    """Download a version's files into `folder` (created if missing); returns it.

    Raises:
        ConflictError: the version has no manifest, or a file is not what it says.
    """
    manifest_sha256 = version.manifest_sha256
    if manifest_sha256 is None:
        raise ConflictError(
            f"Version {version.version} of {version.model} has no manifest, so its files cannot be checked.",
            hint="Register the model anew from its run.",
        )
    check_name(version.tenant)
    parameters = {"name": version.model, "version": str(version.version)}
    try:
        found = call(
            "GET", f"{API}/model-versions/get-download-uri", tenant=version.tenant, params=parameters
        )
        with repository(found["artifact_uri"], version.tenant) as files, readable_errors():
            _download(files, manifest_sha256, folder)
    except ConflictError as error:
        raise ConflictError(
            error.message,
            hint=f"Roll back with `ai-hub rollback {version.model} --tenant {version.tenant}`, "
            "then register the model anew.",
        ) from error
    return folder


def _download(repository: Repository, manifest_sha256: str, folder: Path) -> None:
    """Download what the manifest lists, which must be all there is."""
    sizes = repository.sizes()
    if MANIFEST not in sizes:
        raise _tampered(repository, MANIFEST, "is missing")
    own = _fetch(repository, MANIFEST, folder)
    path = MANIFEST if _sha256(own) == manifest_sha256 else manifest.place(sizes, MANIFEST)
    if path != MANIFEST:  # that one is the model's
        own = _fetch(repository, path, folder)
    if _sha256(own) != manifest_sha256:
        raise _tampered(repository, path, "was changed")
    listed = manifest.listed_by(path, own.read_bytes(), manifest_sha256)
    if found := manifest.difference(listed, sizes):
        raise _tampered(repository, *found)

    def fetch(job: tuple[Context, str]) -> None:
        context, path = job
        local = context.run(_fetch, repository, path, folder)
        if _sha256(local) != listed[path]["sha256"]:
            raise _tampered(repository, path, "was changed")

    # a thread does not know the tenant by itself
    folders.map_parallel(fetch, [(copy_context(), name) for name in listed if name != path])


def _tampered(repository: Repository, path: str, what: str) -> ConflictError:
    return ConflictError(manifest.tampered_text(repository.address, path, what))


def _load_pyfunc(folder: str) -> Any:
    import mlflow.pyfunc  # noqa: PLC0415 - seconds to import, for those who load this way

    return mlflow.pyfunc.load_model(folder)


def _fetch(repository: Repository, path: str, folder: Path) -> Path:
    parts = PurePosixPath(path).parts
    if ".." in parts or PurePosixPath(path).is_absolute():
        raise ConflictError(f"The manifest names {path!r}, which is outside the version's folder.")
    local = folder.joinpath(*parts)
    local.parent.mkdir(parents=True, exist_ok=True)
    repository.download(path, str(local))
    return local


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

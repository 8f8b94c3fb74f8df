"""Fetching a registered version, checked file by file against its manifest."""

from __future__ import annotations

import hashlib
import tempfile
from contextvars import copy_context
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from ai_hub.errors import ConflictError
from ai_hub.registry.server import connect, readable_errors, tracking_uri
from ai_hub.registry.tenants import tenant_scope
from ai_hub.registry.versions import ModelVersion, production_version
from mlflow_plugins.artifacts import manifest, parallel
from mlflow_plugins.artifacts.folders import RepositoryFolder
from mlflow_plugins.artifacts.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from mlflow.store.artifact.artifact_repo import ArtifactRepository


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
    sealed = version.manifest_sha256
    if sealed is None:
        raise ConflictError(
            f"Version {version.version} of {version.model} has no manifest, so its files cannot be checked.",
            hint="Register the model anew from its run.",
        )
    client = connect()
    try:
        with tenant_scope(version.tenant), readable_errors():
            uri = client.get_model_version_download_uri(version.model, str(version.version))
            _download(get_artifact_repository(uri, tracking_uri=tracking_uri()), sealed, folder)
    except ConflictError as error:
        raise ConflictError(
            error.message,
            hint=f"Roll back with `ai-hub rollback {version.model} --tenant {version.tenant}`, "
            "then register the model anew.",
        ) from error
    return folder


def _download(repository: ArtifactRepository, sealed: str, folder: Path) -> None:
    """Download what the manifest lists, which must be all there is."""
    remote = RepositoryFolder(repository)
    sizes = {path: file.size for path, file in remote.files().items()}
    if MANIFEST not in sizes:
        raise manifest.tampered(remote, MANIFEST, "is missing")
    own = _fetch(repository, MANIFEST, folder)
    path = MANIFEST if _sha256(own) == sealed else manifest.place(sizes, MANIFEST)
    if path != MANIFEST:  # that one is the model's
        own = _fetch(repository, path, folder)
    listed = manifest.parse(remote, path, own.read_bytes(), sealed)
    manifest.check_listing(remote, listed, sizes)

    def fetch(job: tuple[Context, str]) -> None:
        context, path = job
        local = context.run(_fetch, repository, path, folder)
        if _sha256(local) != listed[path]["sha256"]:
            raise manifest.tampered(remote, path, "was changed")

    # a thread does not know the tenant by itself
    parallel.each(fetch, [(copy_context(), name) for name in listed if name != path])


def _load_pyfunc(folder: str) -> Any:
    import mlflow.pyfunc  # noqa: PLC0415 - seconds to import, for those who load this way

    return mlflow.pyfunc.load_model(folder)


def _fetch(repository: ArtifactRepository, path: str, folder: Path) -> Path:
    parts = PurePosixPath(path).parts
    if ".." in parts or PurePosixPath(path).is_absolute():
        raise ConflictError(f"The manifest names {path!r}, which is outside the version's folder.")
    local = folder.joinpath(*parts)
    local.parent.mkdir(parents=True, exist_ok=True)
    # `download_artifacts` would list everything again
    repository._download_file(path, str(local))  # noqa: SLF001 - what every repository implements
    return local


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Fetching a registered version, checked file by file against its manifest."""

from __future__ import annotations

import hashlib
import tempfile
from contextvars import copy_context
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ai_hub.errors import ConflictError
from ai_hub.registry.files import repository
from ai_hub.registry.server import API, call, readable_errors
from ai_hub.registry.tenants import check_name
from ai_hub.registry.versions import ModelVersion, production_version
from mlflow_plugins.artifacts import manifest, parallel
from mlflow_plugins.artifacts.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from ai_hub.registry.files import Repository


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
    check_name(version.tenant)
    wish = {"name": version.model, "version": str(version.version)}
    try:
        found = call("GET", f"{API}/model-versions/get-download-uri", tenant=version.tenant, params=wish)
        with repository(found["artifact_uri"], version.tenant) as files, readable_errors():
            _download(files, sealed, folder)
    except ConflictError as error:
        raise ConflictError(
            error.message,
            hint=f"Roll back with `ai-hub rollback {version.model} --tenant {version.tenant}`, "
            "then register the model anew.",
        ) from error
    return folder


def _download(repository: Repository, sealed: str, folder: Path) -> None:
    """Download what the manifest lists, which must be all there is."""
    sizes = repository.sizes()
    if MANIFEST not in sizes:
        raise _tampered(repository, MANIFEST, "is missing")
    own = _fetch(repository, MANIFEST, folder)
    path = MANIFEST if _sha256(own) == sealed else manifest.place(sizes, MANIFEST)
    if path != MANIFEST:  # that one is the model's
        own = _fetch(repository, path, folder)
    if _sha256(own) != sealed:
        raise _tampered(repository, path, "was changed")
    listed = manifest.listed_by(path, own.read_bytes(), sealed)
    if found := manifest.difference(listed, sizes):
        raise _tampered(repository, *found)

    def fetch(job: tuple[Context, str]) -> None:
        context, path = job
        local = context.run(_fetch, repository, path, folder)
        if _sha256(local) != listed[path]["sha256"]:
            raise _tampered(repository, path, "was changed")

    # a thread does not know the tenant by itself
    parallel.each(fetch, [(copy_context(), name) for name in listed if name != path])


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

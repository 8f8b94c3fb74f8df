"""The registered models of a tenant as folders of the artifact proxy: what the registry says there is.

What a registration has not finished, or a deletion has not removed yet, is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow.entities import FileInfo

from mlflow_plugins.artifacts.layout import VERSION_DEPTH
from mlflow_plugins.artifacts.seals import SealedFolder
from mlflow_plugins.errors import missing

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow_plugins.artifacts.layout import ProxyPath
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


def children(bucket: str, located: ProxyPath) -> list[FileInfo]:
    """Files and folders directly in a folder, paths relative to it; empty when there is no such folder.

    Raises:
        MlflowException: 409, the folder is not what was registered.
    """
    if len(located.parts) < VERSION_DEPTH:
        names = _registry().registered_folders(located.tenant, *located.parts)
        return [FileInfo(name, True, None) for name in names]
    folder = _sealed_folder(bucket, located)
    if folder is None:
        return []
    path = "/".join(located.parts[VERSION_DEPTH:])
    return folder.children(path)


def download(bucket: str, located: ProxyPath, local: Path) -> None:
    """Write a file to `local`.

    Raises:
        MlflowException: 409, it is not what was registered; 404, there is none.
    """
    folder = _sealed_folder(bucket, located)
    if folder is None or len(located.parts) == VERSION_DEPTH:
        raise missing(f"There is no artifact {located.key}.")
    folder.download("/".join(located.parts[VERSION_DEPTH:]), local)


def _sealed_folder(bucket: str, located: ProxyPath) -> SealedFolder | None:
    if len(located.parts) < VERSION_DEPTH:
        return None
    model, number = located.parts[:VERSION_DEPTH]
    sealed = _registry().seal_of(located.tenant, model, number)
    if sealed is None:
        return None
    return SealedFolder(bucket, f"{located.tenant}/{model}/{number}", sealed)


def _registry() -> LifecycleStore:
    from mlflow_plugins.store.current import registry_store  # noqa: PLC0415 - imports this package

    return registry_store()

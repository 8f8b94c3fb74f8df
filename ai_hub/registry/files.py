"""The files of a version, through the registry's artifact proxy or as MLflow's own client gets them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, urlsplit

from ai_hub.errors import AiHubError
from ai_hub.registry.server import address, call, needs_own_client, stream, tracking_uri
from ai_hub.registry.tenants import tenant_scope
from mlflow_plugins.artifacts.folders import RepositoryFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        AiHubError: reading them takes MLflow, which is not installed.
    """
    parts = urlsplit(uri)
    if parts.scheme == _PROXY_SCHEME and not parts.netloc and not needs_own_client():
        yield _Proxy(parts.path.strip("/"), tenant)
        return
    open_repository = _of_mlflow(uri)
    with tenant_scope(tenant):
        yield _OfMlflow(open_repository(uri, tracking_uri=tracking_uri()))


def _of_mlflow(uri: str) -> Callable[..., ArtifactRepository]:
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


class _Proxy:
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
            wish = {"path": f"{self._root}/{folder}".rstrip("/")}
            for each in call("GET", _PROXY, tenant=self._tenant, params=wish).get("files", ()):
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


class _OfMlflow:
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

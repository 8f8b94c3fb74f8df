"""`--artifacts-destination minio://BUCKET`: the server's side of MLflow's artifact proxy.

Maps the proxy's paths to the fixed layout of the bucket (see `destination`), with the keys of the server's
own environment, so clients hold none. Folders of registered versions are read-only here. Nothing leaves them
that is not what was registered: files are checked against the manifest, and that against its SHA-256 in the
registry's database. What a registration has not finished, or a deletion has not removed yet, is not there.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mlflow.entities import FileInfo
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.utils.workspace_context import get_request_workspace

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import VERSION_DEPTH, ProxyPath, parse_proxy_path
from mlflow_plugins.artifacts.s3 import TRANSFER, S3Folder, s3_client, s3_errors
from mlflow_plugins.errors import bad_input, forbidden, is_missing, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from mlflow_plugins.artifacts.manifest import Fingerprints
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


class MinioArtifactRepository(ArtifactRepository):
    """Artifacts under `minio://BUCKET[/proxy path]`, in the S3 store of the settings `MINIO_*`."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        parts = urlsplit(artifact_uri)
        if not parts.netloc:
            raise bad_input(f"{artifact_uri!r} names no bucket. Use minio://BUCKET.")
        self.bucket = parts.netloc
        self._root = parts.path.strip("/")

    @property
    def client(self) -> S3Client:
        """The shared S3 client."""
        return s3_client()

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file in folder `artifact_path`."""
        target = self._writable(_join(artifact_path, Path(local_file).name))
        with s3_errors(target.key):
            self.client.upload_file(local_file, self.bucket, target.key, Config=TRANSFER)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store every file of a folder."""
        root = Path(local_dir)
        for path in sorted(item for item in root.rglob("*") if item.is_file()):
            folder = path.relative_to(root).parent.as_posix()
            self.log_artifact(str(path), _join(artifact_path, "" if folder == "." else folder))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders directly in folder `path`; empty when it is a file."""
        located = self._locate(path)
        if located.registered:
            children = _registered_children(self.bucket, located)
            return [FileInfo(_join(path, child.path), child.is_dir, child.file_size) for child in children]
        prefix = located.key + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, Delimiter="/"
        )
        infos: list[FileInfo] = []
        with s3_errors(prefix):
            for page in pages:
                infos += [
                    FileInfo(_join(path, folder["Prefix"].removeprefix(prefix).rstrip("/")), True, None)
                    for folder in page.get("CommonPrefixes", [])
                ]
                infos += [
                    FileInfo(_join(path, item["Key"].removeprefix(prefix)), False, item["Size"])
                    for item in page.get("Contents", [])
                    if item["Key"] != prefix
                ]
        return sorted(infos, key=lambda info: info.path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file or folder of a run."""
        target = self._writable(artifact_path)
        with s3_errors(target.key):
            self.client.delete_object(Bucket=self.bucket, Key=target.key)
        S3Folder(self.client, self.bucket, target.key).delete()

    def download_artifacts(self, artifact_path: str | None, dst_path: str | None = None) -> str:
        """Download a file or folder; a file, which the proxy mostly asks for, takes one request to S3."""
        located = self._locate(artifact_path)
        if not located.parts or dst_path is None or not artifact_path:
            return super().download_artifacts(artifact_path, dst_path)
        local = self._create_download_destination(artifact_path, dst_path)
        try:
            self._download_file(artifact_path, local)
        except MlflowException as error:
            if not is_missing(error) or not self.list_artifacts(artifact_path):
                raise
            return super().download_artifacts(artifact_path, dst_path)
        return local

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        located = self._locate(remote_file_path)
        if located.registered:
            _download_registered(self.bucket, located, Path(local_path))
            return
        with s3_errors(remote_file_path):
            self.client.download_file(self.bucket, located.key, local_path, Config=TRANSFER)

    def _locate(self, path: str | None) -> ProxyPath:
        workspaces = MLFLOW_ENABLE_WORKSPACES.get()
        located = parse_proxy_path(_join(self._root, path or ""), workspaces=workspaces)
        # MLflow's handlers scope paths before they come here; this catches whatever slips past them.
        # Without a request (garbage collection, a download's worker thread) there is nobody to compare with.
        active = get_request_workspace() if workspaces else None
        if active is not None and active != located.tenant:
            raise forbidden(f"Artifacts of workspace {located.tenant!r} are not reachable from {active!r}.")
        return located

    def _writable(self, path: str | None) -> ProxyPath:
        located = self._locate(path)
        if located.registered:
            raise forbidden(
                "The files of a registered model version cannot be changed or deleted. "
                "Log the changed model to a run and register it as a new version."
            )
        if not located.parts:
            raise forbidden("Name a file or folder: all artifacts of a tenant cannot be replaced at once.")
        return located


def _join(*parts: str | None) -> str:
    return "/".join(part for part in parts if part)


def _registered_children(bucket: str, located: ProxyPath) -> list[FileInfo]:
    """Files and folders directly in a folder, paths relative to it; empty when there is no such folder.

    Raises:
        MlflowException: 409, the folder is not what was registered.
    """
    if len(located.parts) < VERSION_DEPTH:
        names = _registry().registered_folders(located.tenant, *located.parts)
        return [FileInfo(name, True, None) for name in names]
    folder = _version_folder(bucket, located)
    if folder is None:
        return []
    path = "/".join(located.parts[VERSION_DEPTH:])
    return folder.children(path)


def _download_registered(bucket: str, located: ProxyPath, local: Path) -> None:
    """Write a file to `local`.

    Raises:
        MlflowException: 409, it is not what was registered; 404, there is none.
    """
    folder = _version_folder(bucket, located)
    if folder is None or len(located.parts) == VERSION_DEPTH:
        raise missing(f"There is no artifact {located.key}.")
    folder.download("/".join(located.parts[VERSION_DEPTH:]), local)


def _version_folder(bucket: str, located: ProxyPath) -> VerifiedFolder | None:
    if len(located.parts) < VERSION_DEPTH:
        return None
    model, number = located.parts[:VERSION_DEPTH]
    digest = _registry().manifest_digest_of(located.tenant, model, number)
    if digest is None:
        return None
    return VerifiedFolder(bucket, f"{located.tenant}/{model}/{number}", digest)


def _registry() -> LifecycleStore:
    from mlflow_plugins.store.lifecycle_store import registry_store  # noqa: PLC0415 - imports this package

    return registry_store()


_KEPT: Final = 64


class VerifiedFolder:
    """The folder of a registered version; paths are relative to it."""

    def __init__(self, bucket: str, key: str, manifest_sha256: str) -> None:
        self._folder = S3Folder(s3_client(), bucket, key)
        self._listed = _read_manifest(bucket, key, manifest_sha256)

    def children(self, path: str) -> list[FileInfo]:
        """Files and folders directly in folder `path`, once all below it agrees with the manifest.

        Their paths are relative to `path`; it is empty where `path` is no folder.

        Raises:
            MlflowException: 409 naming a file that is missing, of another size, or not of the version.
        """
        prefix = f"{path}/" if path else ""
        below = {name: entry for name, entry in self._listed.items() if name.startswith(prefix)}
        sizes = {name: file.size for name, file in self._folder.files(below=path).items()}
        manifest.check_listing(self._folder, below, sizes)
        found: dict[str, FileInfo] = {}
        for name, entry in below.items():
            child, _, deeper = name.removeprefix(prefix).partition("/")
            size = None if deeper else entry["size"]
            found[child] = FileInfo(child, bool(deeper), size)
        return [found[child] for child in sorted(found)]

    def download(self, path: str, local: Path) -> None:
        """Write a file to `local`.

        Raises:
            MlflowException: 409, it is not what was registered; 404, there is no such file.
        """
        entry = self._listed.get(path)
        if entry is None:
            if path in self._folder.files(below=path.rpartition("/")[0]):
                raise manifest.tampered(self._folder, path, "was added")
            raise missing(f"There is no artifact {self._folder}{path}.")
        with _nothing_missing(self._folder, path):
            sha256 = self._folder.download(path, local)
        if sha256 != entry["sha256"]:
            local.unlink()
            raise manifest.tampered(self._folder, path, "was changed")


@lru_cache(maxsize=_KEPT)
def _read_manifest(bucket: str, key: str, manifest_sha256: str) -> Fingerprints:
    """What a version consists of; its SHA-256 stands for one content, so it is read once."""
    folder = S3Folder(s3_client(), bucket, key)
    with _nothing_missing(folder, manifest.MANIFEST):
        return manifest.read(folder, manifest_sha256)


@contextmanager
def _nothing_missing(folder: S3Folder, path: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if is_missing(error):
            raise manifest.tampered(folder, path, "is missing") from error
        raise

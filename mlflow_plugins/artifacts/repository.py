"""`--artifacts-destination minio://BUCKET`: the server's side of MLflow's artifact proxy.

Maps the proxy's paths to the fixed layout of the bucket (see `layout`), with the keys of the server's own
environment, so clients hold none. Folders of registered versions are read-only here, and nothing leaves
them that is not what the registry sealed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlflow.entities import FileInfo
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.utils.workspace_context import get_request_workspace

from mlflow_plugins.artifacts import registered
from mlflow_plugins.artifacts.layout import ProxyPath, parse_proxy_path
from mlflow_plugins.artifacts.s3 import TRANSFER, s3_client
from mlflow_plugins.artifacts.s3_folder import S3Folder, s3_errors
from mlflow_plugins.errors import bad_input, forbidden, is_missing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "minio"


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
            children = registered.children(self.bucket, located)
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
            registered.download(self.bucket, located, Path(local_path))
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

"""Registered versions as the artifact proxy serves them: only what the registry sealed.

The manifest's SHA-256 in the registry's database is what everything is checked against, so neither a
changed file nor a manifest forged to match it passes.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.s3 import s3_client
from mlflow_plugins.artifacts.s3_folder import S3Folder
from mlflow_plugins.errors import is_missing, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow_plugins.artifacts.manifest import Fingerprints

_KEPT: Final = 64


class SealedFolder:
    """The folder of a registered version; paths are relative to it."""

    def __init__(self, bucket: str, key: str, manifest_sha256: str) -> None:
        self._folder = S3Folder(s3_client(), bucket, key)
        self._listed = _read(bucket, key, manifest_sha256)

    def children(self, path: str) -> list[FileInfo]:
        """Files and folders directly in folder `path`, once all below it agrees with the manifest.

        Their paths are relative to `path`; it is empty where `path` is no folder.

        Raises:
            MlflowException: 409 naming a file that is missing, of another size, or not of the version.
        """
        prefix = f"{path}/" if path else ""
        below = {name: entry for name, entry in self._listed.items() if name.startswith(prefix)}
        sizes = {name: file.size for name, file in self._folder.files(path).items()}
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
            if path in self._folder.files(path.rpartition("/")[0]):
                raise manifest.tampered(self._folder, path, "was added")
            raise missing(f"There is no artifact {self._folder}{path}.")
        with _nothing_missing(self._folder, path):
            sha256 = self._folder.download(path, local, entry["size"])
        if sha256 != entry["sha256"]:
            local.unlink()
            raise manifest.tampered(self._folder, path, "was changed")


@lru_cache(maxsize=_KEPT)
def _read(bucket: str, key: str, manifest_sha256: str) -> Fingerprints:
    """What a version consists of; the seal names one content, so it never has to be read again."""
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

"""Folders of artifact files: list, read, write, copy and delete, on any store MLflow knows."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from mlflow_plugins.artifacts.witnesses import Sha256Witness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from mlflow_plugins.artifacts.witnesses import Witness

CHUNK: Final = 1 << 20


class File(NamedTuple):
    """What a listing says about a file; `etag` is another one after every change (None: not known)."""

    size: int
    etag: str | None


class Folder(Protocol):
    """Files under one prefix; paths are relative to it and use `/`."""

    def files(self) -> dict[str, File]:
        """Every file below, by path."""

    def read(self, path: str) -> Iterator[bytes]:
        """Contents of a file, in chunks."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file."""

    def copy_from(self, source: Any, files: Mapping[str, File]) -> Mapping[str, Witness]:
        """Make this folder a copy of `files` of `source`, a folder of the same kind; nothing else stays.

        Returns:
            For each path what proves that its copy is right.
        """

    def delete(self) -> list[str]:
        """Delete everything below; returns the paths of the files."""

    def delete_file(self, path: str) -> None:
        """Delete one file."""


class RepositoryFolder:
    """A folder of any artifact store MLflow has a repository for; copies pass through this machine."""

    def __init__(self, repository: ArtifactRepository) -> None:
        self._repository = repository

    def __str__(self) -> str:
        return str(self._repository.artifact_uri)

    def files(self) -> dict[str, File]:
        """Every file below, by path."""
        found: dict[str, File] = {}
        waiting: list[str | None] = [None]
        while waiting:
            folder = waiting.pop()
            for info in self._repository.list_artifacts(folder):
                if info.is_dir:
                    waiting.append(info.path)
                else:
                    found[info.path] = File(info.file_size or 0, None)
        return found

    def read(self, path: str) -> Iterator[bytes]:
        """Contents of a file, in chunks."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(self._repository.download_artifacts(path, scratch))
            with local.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch, PurePosixPath(path).name)
            local.write_bytes(data)
            self._upload(local, path)

    def copy_from(self, source: RepositoryFolder, files: Mapping[str, File]) -> Mapping[str, Witness]:
        """Copy files of `source` here, one at a time through a temporary folder."""
        # nothing here remembers what an earlier attempt copied from where
        self.delete()
        return {path: Sha256Witness(self._copy(source, path)) for path in files}

    def delete(self) -> list[str]:
        """Delete everything below; returns the paths of the files."""
        paths = sorted(self.files())
        self._repository.delete_artifacts()
        return paths

    def delete_file(self, path: str) -> None:
        """Delete one file."""
        self._repository.delete_artifacts(path)

    def _copy(self, source: RepositoryFolder, path: str) -> str:
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch, PurePosixPath(path).name)
            with local.open("wb") as stream:
                for chunk in source.read(path):
                    digest.update(chunk)
                    stream.write(chunk)
            self._upload(local, path)
        return digest.hexdigest()

    def _upload(self, local: Path, path: str) -> None:
        parent = str(PurePosixPath(path).parent)
        self._repository.log_artifact(str(local), None if parent == "." else parent)

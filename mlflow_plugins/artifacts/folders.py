"""Folders of artifact files: list, read, write, copy, check and delete, on any store MLflow knows."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mlflow.store.artifact.artifact_repo import ArtifactRepository


CHUNK: Final = 1 << 20


class File(NamedTuple):
    """What a listing says about a file; `etag` is another one after every change (None: not known)."""

    size: int
    etag: str | None


class Folder(Protocol):
    """Files under one prefix; paths are relative to it and use `/`."""

    def files(self, most: int | None = None) -> dict[str, File]:
        """Every file below, by path; no more than `most` of them."""

    def file(self, path: str) -> File | None:
        """What a listing says about one file; None where there is none."""

    def read(self, path: str, etag: str | None = None) -> Iterator[bytes]:
        """Contents of a file, in chunks; refused where the store knows it by another `etag` now."""

    def write(self, path: str, data: bytes) -> File:
        """Create or replace a file; returns what a listing says about it."""

    def copy_from(self, source: Any, files: Mapping[str, File]) -> Mapping[str, ChecksumVerifier]:
        """Make this folder a copy of `files` of `source`, a folder of the same kind; nothing else stays.

        Returns:
            For each path what tells whether its copy is right.
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

    def files(self, most: int | None = None) -> dict[str, File]:
        """Every file below, by path; no more than `most` of them."""
        found: dict[str, File] = {}
        waiting: list[str | None] = [None]
        while waiting:
            folder = waiting.pop()
            for info in self._repository.list_artifacts(folder):
                if info.is_dir:
                    waiting.append(info.path)
                elif most is None or len(found) < most:
                    found[info.path] = File(info.file_size or 0, None)
                else:
                    return found
        return found

    def file(self, path: str) -> File | None:
        """What a listing says about one file; None where there is none."""
        for info in self._repository.list_artifacts(path.rpartition("/")[0] or None):
            if info.path == path and not info.is_dir:
                return File(info.file_size or 0, None)
        return None

    def read(self, path: str, etag: str | None = None) -> Iterator[bytes]:
        """Contents of a file, in chunks."""
        del etag  # a listing of these stores has none
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(self._repository.download_artifacts(path, scratch))
            with local.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk

    def write(self, path: str, data: bytes) -> File:
        """Create or replace a file."""
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch, PurePosixPath(path).name)
            local.write_bytes(data)
            self._upload(local, path)
        return File(len(data), None)

    def copy_from(
        self, source: RepositoryFolder, files: Mapping[str, File]
    ) -> Mapping[str, ChecksumVerifier]:
        """Copy files of `source` here, one at a time through a temporary folder."""
        # nothing here remembers what an earlier attempt copied from where
        self.delete()
        return {path: Sha256Verifier(self._copy(source, path)) for path in files}

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


#: Size of the parts in which larger files are sent and fetched; the ETag of such a file depends on it.
UPLOAD_PART: Final = 8 << 20


class ChecksumVerifier(Protocol):
    """Compares a copy, whose bytes it is given in order, once, with what is known of its source."""

    def update(self, chunk: bytes) -> None:
        """The next bytes of the copy."""

    def agrees(self, sha256: str) -> bool:
        """Whether the bytes given, which have this SHA-256, are the source's."""


@dataclass(frozen=True)
class Sha256Verifier:
    """Compares with a source that was hashed while it passed through this machine."""

    sha256: str

    def update(self, chunk: bytes) -> None:
        """Nothing to do: whoever asks has the SHA-256."""

    def agrees(self, sha256: str) -> bool:
        """Whether it is the source's."""
        return sha256 == self.sha256


class EtagVerifier:
    """Compares with an S3 object that the store copied by itself.

    Its ETag is an MD5 where the object was put whole or in parts of the size we upload; such a one is
    compared in the same pass as everything else. Where it is anything else, the source is read.
    """

    def __init__(self, etag: str, read: Callable[[], Iterator[bytes]]) -> None:
        self._etag = etag.strip('"')
        self._read = read
        self._part_size = UPLOAD_PART if "-" in self._etag else sys.maxsize
        self._room = self._part_size
        self._md5 = _md5()
        self._parts: list[bytes] = []

    def update(self, chunk: bytes) -> None:
        """The next bytes of the copy."""
        rest = memoryview(chunk)
        while rest:
            taken = rest[: self._room]
            self._md5.update(taken)
            self._room -= len(taken)
            rest = rest[len(taken) :]
            if not self._room:
                self._end_part()

    def agrees(self, sha256: str) -> bool:
        """Whether the bytes have the source's ETag, or else its SHA-256."""
        return self._found() == self._etag or sha256_of(self._read()) == sha256

    def _found(self) -> str:
        if self._part_size == sys.maxsize:
            return self._md5.hexdigest()
        if self._room < self._part_size:
            self._end_part()
        return f"{_md5(b''.join(self._parts)).hexdigest()}-{len(self._parts)}"

    def _end_part(self) -> None:
        self._parts.append(self._md5.digest())
        self._md5 = _md5()
        self._room = self._part_size


def sha256_of(chunks: Iterable[bytes]) -> str:
    """SHA-256 of all bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)  # S3's ETag; the manifest has the SHA-256


WORKERS: Final = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, in their order; after a failure nothing new is begun."""
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

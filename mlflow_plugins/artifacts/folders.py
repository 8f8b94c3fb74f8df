"""Folders of artifact files: list, read, write, copy and delete, on S3 or on any store MLflow knows."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from mlflow_plugins.errors import missing, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

CHUNK: Final = 1 << 20
_PARALLEL: Final = 8
_DELETE_BATCH: Final = 1000  # S3's limit for one DeleteObjects call


class Folder(Protocol):
    """Files under one prefix; paths are relative to it and use `/`."""

    def files(self) -> dict[str, int]:
        """Size in bytes of every file below, by path."""

    def read(self, path: str) -> Iterator[bytes]:
        """Contents of a file, in chunks."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file."""

    def copy_from(self, source: Any, paths: Iterable[str]) -> None:
        """Copy files of `source`, a folder of the same kind, here under the same paths."""

    def delete(self) -> list[str]:
        """Delete every file below; returns their paths."""


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Turn botocore's exceptions into MLflow's: 404 for a missing object, else 503."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code in {"404", "NoSuchKey"}:
            raise missing(f"There is no artifact {what}.") from error
        raise unavailable(f"The artifact store refused {what}: {error}") from error
    except BotoCoreError as error:
        raise unavailable(f"The artifact store does not answer for {what}: {error}") from error


class S3Folder:
    """A prefix of a bucket; copies inside the store itself."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.rstrip("/") + "/"

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def files(self) -> dict[str, int]:
        """Size in bytes of every file below, by path."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        with s3_errors(str(self)):
            objects = [item for page in pages for item in page.get("Contents", [])]
        # a key ending in a slash is the empty marker some clients make for a folder
        return {
            item["Key"].removeprefix(self._prefix): item["Size"]
            for item in objects
            if not item["Key"].endswith("/")
        }

    def read(self, path: str) -> Iterator[bytes]:
        """Contents of a file, in chunks."""
        with s3_errors(f"{self}{path}"):
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"]
            yield from body.iter_chunks(CHUNK)

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file."""
        with s3_errors(f"{self}{path}"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=data)

    def copy_from(self, source: S3Folder, paths: Iterable[str]) -> None:
        """Copy files of `source` here by server-side copy (in parts above S3's 5 GiB limit)."""

        def copy(path: str) -> None:
            with s3_errors(f"{source}{path}"):
                self._client.copy(
                    {"Bucket": source._bucket, "Key": source._prefix + path},
                    self._bucket,
                    self._prefix + path,
                )

        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(copy, paths))

    def delete(self) -> list[str]:
        """Delete every file below; returns their paths."""
        paths = sorted(self.files())
        keys: list[ObjectIdentifierTypeDef] = [{"Key": self._prefix + path} for path in paths]
        with s3_errors(str(self)):
            for start in range(0, len(keys), _DELETE_BATCH):
                batch = keys[start : start + _DELETE_BATCH]
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": batch})
                if failed := answer.get("Errors"):
                    raise unavailable(f"Could not delete {failed[0].get('Key')}: {failed[0].get('Message')}")
        return paths


class RepositoryFolder:
    """A folder of any artifact store MLflow has a repository for; copies pass through this machine."""

    def __init__(self, repository: ArtifactRepository) -> None:
        self._repository = repository

    def __str__(self) -> str:
        return str(self._repository.artifact_uri)

    def files(self) -> dict[str, int]:
        """Size in bytes of every file below, by path."""
        found: dict[str, int] = {}
        waiting: list[str | None] = [None]
        while waiting:
            folder = waiting.pop()
            for info in self._repository.list_artifacts(folder):
                if info.is_dir:
                    waiting.append(info.path)
                else:
                    found[info.path] = info.file_size or 0
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

    def copy_from(self, source: RepositoryFolder, paths: Iterable[str]) -> None:
        """Copy files of `source` here, one at a time through a temporary folder."""
        for path in paths:
            with tempfile.TemporaryDirectory() as scratch:
                local = Path(scratch, PurePosixPath(path).name)
                with local.open("wb") as stream:
                    for chunk in source.read(path):
                        stream.write(chunk)
                self._upload(local, path)

    def delete(self) -> list[str]:
        """Delete every file below; returns their paths."""
        paths = sorted(self.files())
        self._repository.delete_artifacts()
        return paths

    def _upload(self, local: Path, path: str) -> None:
        parent = str(PurePosixPath(path).parent)
        self._repository.log_artifact(str(local), None if parent == "." else parent)

"""S3: the client of this process, and prefixes of a bucket as folders.

The store copies by itself: exactly the version that was listed, large files in parts, many at once. Copies
remember their source.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mlflow_plugins.artifacts.folders import (
    CHUNK,
    UPLOAD_PART,
    EtagVerifier,
    File,
    Sha256Verifier,
    map_parallel,
)
from mlflow_plugins.errors import conflict, missing, unavailable
from mlflow_plugins.settings import RegistrySettings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from mlflow_plugins.artifacts.folders import ChecksumVerifier, Folder


S3_SETTINGS: Final = ("MINIO_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
TRANSFER: Final = TransferConfig(multipart_threshold=UPLOAD_PART, multipart_chunksize=UPLOAD_PART)


def s3_client() -> S3Client:
    """Client of the store at `MINIO_ENDPOINT_URL`; boto3 clients are safe to share between threads.

    Raises:
        MlflowException: 409, the endpoint or a key is not set.
    """
    given = [os.environ.get(name) for name in S3_SETTINGS]
    if not all(given):
        settings = RegistrySettings()  # takes milliseconds, and a server's environment has them all
        given = [settings.require(name.lower()) for name in S3_SETTINGS]
    return _client(*map(str, given))


@lru_cache(maxsize=4)
def _client(endpoint: str, access_key: str, secret_key: str) -> S3Client:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "max_attempts": 3},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=32,
        # S3 look-alikes do not all know the checksum trailers newer botocore sends by default
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=config,
    )


#: How often a broken stream is resumed.
_RESUMES: Final = 5
_DELETE_BATCH: Final = 1000  # S3's limit for one DeleteObjects call
#: Metadata of a copy: a hash of where and of which version of the source it was made.
_ORIGIN: Final = "origin"


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Turn botocore's exceptions into MLflow's: 404 missing, 409 changed while it was read, else 503."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code in {"404", "NoSuchKey"}:
            raise missing(f"There is no artifact {what}.") from error
        if code in {"412", "PreconditionFailed"}:
            raise conflict(
                f"Artifact {what} was changed while it was being read. Try again when nobody writes to it."
            ) from error
        raise unavailable(f"The artifact store refused {what}: {error}") from error
    except BotoCoreError as error:
        raise unavailable(f"The artifact store does not answer for {what}: {error}") from error


class S3Folder:
    """A prefix of a bucket."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.rstrip("/") + "/"

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def files(self, most: int | None = None, *, below: str = "") -> dict[str, File]:
        """Every file below (below the folder `below`, where given), by path; no more than `most` of them."""
        # a key ending in a slash is the empty marker some clients make for a folder
        return {path: file for path, file in self._objects(below, most).items() if not path.endswith("/")}

    def file(self, path: str) -> File | None:
        """What a listing says about one file; None where there is none."""
        with s3_errors(f"{self}{path}"):
            # keys come in order, and this is the first that begins like it
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + path, MaxKeys=1)
        for item in page.get("Contents", []):
            if item["Key"] == self._prefix + path:
                return File(item["Size"], item["ETag"])
        return None

    def read(self, path: str, etag: str | None = None) -> Iterator[bytes]:
        """Contents of a file, in chunks; refused where it is no longer the one with `etag`.

        A stream that breaks is resumed where it broke, if the file is still the same.
        """
        request: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + path}
        condition: dict[str, Any] = {"IfMatch": etag} if etag else {}
        position = 0
        with s3_errors(f"{self}{path}"):
            answer = self._client.get_object(**request, **condition)
            for attempt in itertools.count():
                try:
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        position += len(chunk)
                        yield chunk
                except BotoCoreError:
                    if attempt == _RESUMES or "ETag" not in answer:
                        raise
                else:
                    return
                answer = self._client.get_object(
                    **request, IfMatch=answer["ETag"], Range=f"bytes={position}-"
                )
                # a store that knows no ranges begins again
                if not answer.get("ContentRange", "").startswith(f"bytes {position}-"):
                    answer["Body"].close()
                    raise unavailable(f"The artifact store broke off {self}{path} and does not resume it.")

    def download(self, path: str, local: Path) -> str:
        """Write a file to `local`; returns the SHA-256 of what was written. After a failure there is no file.

        One stream and one pass: boto3's transfer in parts takes more CPU time than this with the hash.
        """
        digest = hashlib.sha256()
        try:
            with local.open("wb") as stream:
                for chunk in self.read(path):
                    digest.update(chunk)
                    stream.write(chunk)
        except BaseException:
            local.unlink(missing_ok=True)
            raise
        return digest.hexdigest()

    def write(self, path: str, data: bytes) -> File:
        """Create or replace a file; returns what a listing says about it."""
        with s3_errors(f"{self}{path}"):
            answer = self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=data)
        return File(len(data), answer["ETag"])

    def copy_from(self, source: Folder, files: Mapping[str, File]) -> Mapping[str, ChecksumVerifier]:
        """Make this folder a copy of `files` of `source`; complete copies of an earlier attempt stay.

        Those of a `source` that is not in this store pass through this machine, and are copied again.
        """
        if not isinstance(source, S3Folder):
            return self._upload_from(source, files)
        jobs = {path: self._job(source, path, file) for path, file in files.items()}
        present = self._objects()
        if present or any(job.in_parts for job in jobs.values()):
            self._abort_uploads()
        self._delete(present.keys() - files.keys())
        sized = [path for path, file in files.items() if path in present and present[path].size == file.size]
        kept = {path for path, copied in zip(sized, map_parallel(self._origin, sized), strict=True)
                if copied == jobs[path].metadata[_ORIGIN]}  # fmt: skip
        _copy_objects(self._client, [job for path, job in jobs.items() if path not in kept])
        return {path: _verifier(source, path, file) for path, file in files.items()}

    def delete(self) -> list[str]:
        """Delete everything below, unfinished uploads included; returns the paths of the files."""
        self._abort_uploads()
        present = self._objects()
        # some stores keep empty folders, and list their names
        self._delete({*present, *(f"{folder}/" for path in present for folder in _parents(path)), ""})
        return sorted(path for path in present if not path.endswith("/"))

    def delete_file(self, path: str) -> None:
        """Delete one file."""
        self._delete([path])

    def _upload_from(self, source: Folder, files: Mapping[str, File]) -> Mapping[str, ChecksumVerifier]:
        self._abort_uploads()
        self._delete(self._objects().keys() - files.keys())

        def upload(path: str) -> ChecksumVerifier:
            digest = hashlib.sha256()
            with tempfile.NamedTemporaryFile() as local:
                for chunk in source.read(path):
                    digest.update(chunk)
                    local.write(chunk)
                local.flush()
                with s3_errors(f"{self}{path}"):
                    self._client.upload_file(local.name, self._bucket, self._prefix + path, Config=TRANSFER)
            return Sha256Verifier(digest.hexdigest())

        return dict(zip(files, map_parallel(upload, files), strict=True))

    def _objects(self, below: str = "", most: int | None = None) -> dict[str, File]:
        prefix = self._prefix + (f"{below}/" if below else "")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, PaginationConfig={"MaxItems": most} if most else {}
        )
        with s3_errors(str(self)):
            return {
                item["Key"].removeprefix(self._prefix): File(item["Size"], item["ETag"])
                for page in pages
                for item in page.get("Contents", [])
            }

    def _job(self, source: S3Folder, path: str, file: File) -> CopyJob:
        key = source._prefix + path
        origin = f"{source._bucket}/{key}\n{file.etag}\n{file.size}"
        return CopyJob(
            source_bucket=source._bucket,
            source_key=key,
            etag=file.etag or "",
            size=file.size,
            bucket=self._bucket,
            key=self._prefix + path,
            metadata={_ORIGIN: hashlib.sha256(origin.encode()).hexdigest()},
        )

    def _origin(self, path: str) -> str | None:
        with s3_errors(f"{self}{path}"):
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        return head["Metadata"].get(_ORIGIN)

    def _abort_uploads(self) -> None:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        with s3_errors(str(self)):
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )

    def _delete(self, paths: Collection[str]) -> None:
        # what is inside a folder before the folder
        keys = sorted((self._prefix + path for path in paths), reverse=True)
        with s3_errors(str(self)):
            for start in range(0, len(keys), _DELETE_BATCH):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": key} for key in keys[start : start + _DELETE_BATCH]]},
                )
                if failed := answer.get("Errors"):
                    raise unavailable(f"Could not delete {failed[0].get('Key')}: {failed[0].get('Message')}")


def _parents(path: str) -> list[str]:
    """The folders a path leads through."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: length + 1]) for length in range(len(parts))]


def _verifier(source: S3Folder, path: str, file: File) -> ChecksumVerifier:
    return EtagVerifier(file.etag or "", lambda: source.read(path, file.etag))


#: Larger files are copied in parts of at least this size; one request copies 5 GiB at most, but slowly.
COPY_PART: Final = 64 << 20
_MOST_PARTS: Final = 10_000


@dataclass(frozen=True)
class CopyJob:
    """One object to copy; `etag` is the version of the source that is meant."""

    source_bucket: str
    source_key: str
    etag: str
    size: int
    bucket: str
    key: str
    metadata: dict[str, str]

    @property
    def in_parts(self) -> bool:
        """Whether one request would take too long."""
        return self.size > COPY_PART


def _copy_objects(client: S3Client, jobs: Sequence[CopyJob]) -> None:
    """Copy them all; every object appears whole or not at all."""

    def copy_one(job: CopyJob) -> None:
        with s3_errors(_source_of(job)):
            client.copy_object(
                Bucket=job.bucket,
                Key=job.key,
                CopySource={"Bucket": job.source_bucket, "Key": job.source_key},
                CopySourceIfMatch=job.etag,
                MetadataDirective="REPLACE",
                Metadata=job.metadata,
            )

    map_parallel(copy_one, [job for job in jobs if not job.in_parts])
    for job in jobs:
        if job.in_parts:
            with s3_errors(_source_of(job)):
                _copy_in_parts(client, job)


def _copy_in_parts(client: S3Client, job: CopyJob) -> None:
    upload = client.create_multipart_upload(Bucket=job.bucket, Key=job.key, Metadata=job.metadata)["UploadId"]
    size = max(COPY_PART, -(-job.size // _MOST_PARTS))

    def copy_part(number: int) -> CompletedPartTypeDef:
        first = (number - 1) * size
        answer = client.upload_part_copy(
            Bucket=job.bucket,
            Key=job.key,
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": job.source_bucket, "Key": job.source_key},
            CopySourceRange=f"bytes={first}-{min(first + size, job.size) - 1}",
            CopySourceIfMatch=job.etag,
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    try:
        parts = map_parallel(copy_part, range(1, -(-job.size // size) + 1))
        client.complete_multipart_upload(
            Bucket=job.bucket, Key=job.key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        # where even that fails, whoever uses or deletes the folder next does it
        with suppress(BotoCoreError, ClientError):
            client.abort_multipart_upload(Bucket=job.bucket, Key=job.key, UploadId=upload)
        raise


def _source_of(job: CopyJob) -> str:
    return f"s3://{job.source_bucket}/{job.source_key}"

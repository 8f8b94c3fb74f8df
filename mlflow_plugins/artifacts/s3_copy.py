"""Copies inside an S3 store: of exactly the version that was listed, large files in parts, many at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from mlflow_plugins.artifacts import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    Errors = Callable[[str], AbstractContextManager[None]]

#: Larger files are copied in parts of at least this size; one request copies 5 GiB at most, but slowly.
PART: Final = 64 << 20
_MOST_PARTS: Final = 10_000


@dataclass(frozen=True)
class Job:
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
        return self.size > PART


def copy(client: S3Client, jobs: Sequence[Job], errors: Errors) -> None:
    """Copy them all; every object appears whole or not at all.

    Args:
        client: of the store.
        jobs: what to copy.
        errors: translates the client's exceptions about the object named.
    """

    def copy_one(job: Job) -> None:
        with errors(_name(job)):
            client.copy_object(
                Bucket=job.bucket,
                Key=job.key,
                CopySource={"Bucket": job.source_bucket, "Key": job.source_key},
                CopySourceIfMatch=job.etag,
                MetadataDirective="REPLACE",
                Metadata=job.metadata,
            )

    parallel.each(copy_one, [job for job in jobs if not job.in_parts])
    for job in jobs:
        if job.in_parts:
            with errors(_name(job)):
                _copy_in_parts(client, job)


def _copy_in_parts(client: S3Client, job: Job) -> None:
    upload = client.create_multipart_upload(Bucket=job.bucket, Key=job.key, Metadata=job.metadata)["UploadId"]
    size = max(PART, -(-job.size // _MOST_PARTS))

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
        parts = parallel.each(copy_part, range(1, -(-job.size // size) + 1))
        client.complete_multipart_upload(
            Bucket=job.bucket, Key=job.key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        # where even that fails, whoever uses or deletes the folder next does it
        with suppress(BotoCoreError, ClientError):
            client.abort_multipart_upload(Bucket=job.bucket, Key=job.key, UploadId=upload)
        raise


def _name(job: Job) -> str:
    return f"s3://{job.source_bucket}/{job.source_key}"

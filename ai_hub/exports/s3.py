"""Exports in a bucket: multipart uploads that are completed only when every byte is there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from ai_hub.errors import AiHubError
from ai_hub.exports.export import PathTakenError, files_by_month
from ai_hub.servers import s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectOutputTypeDef, HeadObjectOutputTypeDef

    from ai_hub.exports.export import Export
    from ai_hub.exports.locations import Bucket, Sink
    from ai_hub.settings import Settings

_PART_BYTES: Final = 8 << 20
_DELETED_AT_ONCE: Final = 1000  # S3's limit
#: Names of the export and its fence in the metadata of each object.
EXPORT_ID: Final = "export-id"
_FENCE: Final = "fence"
_NO_BUCKET: Final = {"NoSuchBucket", "404", "NotFound"}
_GONE: Final = {"NoSuchUpload", "NoSuchKey", "404", "NotFound"}


def is_gone(settings: Settings, storage_path: str) -> bool:
    """Whether the files of a completed export are deleted; False if the store does not answer."""
    # a key may have any character of a URL
    bucket, _, key = storage_path.removeprefix("s3://").partition("/")
    try:
        client = s3_client(settings)
        if _head(client, bucket, key) or _head(client, bucket, _manifest(key)):
            return False
        return not client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1).get("Contents")
    except (AiHubError, BotoCoreError, ClientError):
        return False


def objects(settings: Settings, bucket: Bucket, path: str) -> dict[str, int]:
    """Size of each object at `path` or below it, by its name there; empty: of the object itself.

    Raises:
        BotoCoreError, ClientError: the store does not answer, or refuses.
    """
    key = bucket.prefix + path
    pages = s3_client(settings).get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=key)
    return {
        item["Key"][len(key) :].removeprefix("/"): item["Size"]
        for page in pages
        for item in page.get("Contents", [])
        if item["Key"] == key or item["Key"].startswith(f"{key}/")
    }


def all_objects(settings: Settings, bucket: Bucket) -> dict[str, int]:
    """Size of every object of the tenant, by its key; nothing where there is no such bucket."""
    pages = s3_client(settings).get_paginator("list_objects_v2")
    try:
        return {
            item["Key"]: item["Size"]
            for page in pages.paginate(Bucket=bucket.name, Prefix=bucket.prefix)
            for item in page.get("Contents", [])
        }
    except ClientError as error:
        if _code(error) in _NO_BUCKET:
            return {}
        raise


def delete_all(settings: Settings, bucket: Bucket) -> None:
    """Delete every object of the tenant, and uploads that have not ended."""
    client = s3_client(settings)
    keys = sorted(all_objects(settings, bucket))
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        batch: Any = {"Objects": [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]}
        answer = client.delete_objects(Bucket=bucket.name, Delete=batch)
        if failed := answer.get("Errors"):
            raise AiHubError(f"Could not delete {failed[0].get('Key')}: {failed[0].get('Message')}")
    if not keys:
        return
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name):
        for each in page.get("Uploads", []):
            if each["Key"].startswith(bucket.prefix):
                client.abort_multipart_upload(Bucket=bucket.name, Key=each["Key"], UploadId=each["UploadId"])


def is_of(settings: Settings, bucket: Bucket, path: str, export_id: UUID) -> bool:
    """Whether the object was written by this export."""
    found = _head(s3_client(settings), bucket.name, bucket.prefix + path)
    return found is not None and found["Metadata"].get(EXPORT_ID) == str(export_id)


def get(settings: Settings, bucket: Bucket, path: str, part: str | None) -> GetObjectOutputTypeDef:
    """The content of an object, or the part of it that an HTTP Range names."""
    extra: Any = {"Range": part} if part else {}
    return s3_client(settings).get_object(Bucket=bucket.name, Key=bucket.prefix + path, **extra)


def signed_url(settings: Settings, bucket: Bucket, path: str, seconds: int) -> str:
    """Address from which anybody can read the object for so long."""
    where = {"Bucket": bucket.name, "Key": bucket.prefix + path}
    return s3_client(settings).generate_presigned_url("get_object", Params=where, ExpiresIn=seconds)


class S3Target:
    """See `Target`."""

    def __init__(self, settings: Settings, bucket: Bucket, export: Export) -> None:
        self._client = s3_client(settings)
        self._bucket = bucket.name
        self._key = bucket.prefix + export.output_path
        self._manifest = _manifest(self._key)
        self._metadata = {EXPORT_ID: str(export.export_id), _FENCE: str(export.fence)}
        self._fence = export.fence
        self._path = export.output_path
        request = export.request
        self._upload_keys = [self._key]
        if request.partition_by is not None:
            parts = files_by_month(request.start, request.end)
            self._upload_keys = [*(f"{self._key}/{part}" for part in parts), self._manifest]
        self._uploads: list[_Upload] = []

    def clean(self) -> None:
        """Own uploads first, which are known without being listed; makes the bucket if there is none."""
        for upload in self._uploads:
            self._abort(upload.key, upload.upload_id)
        self._make_bucket()
        self._abort_uploads()
        for key in self._keys():
            if self._is_ours(key):
                self._client.delete_object(Bucket=self._bucket, Key=key)

    @contextmanager
    def create(self, path: str) -> Iterator[Sink]:
        """All parts are there when the block ends; the object appears with `publish`."""
        with self._upload(f"{self._key}/{path}" if path else self._key) as upload:
            yield upload

    @contextmanager
    def _upload(self, key: str) -> Iterator[_Upload]:
        started = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, Metadata=self._metadata)
        upload = _Upload(self._client, self._bucket, key, started["UploadId"], self._metadata)
        self._uploads.append(upload)
        yield upload
        upload.flush()

    def publish(self, manifest: bytes | None) -> str:
        """The manifest of a folder is last: when it is there, everything is."""
        if any(not self._is_ours(key) for key in self._keys()):
            raise PathTakenError(self._path, "something that is no export of the hub")
        if manifest is not None:
            # as an upload, it cannot come over a later attempt's either
            with self._upload(self._manifest) as sink:
                sink.write(memoryview(manifest))
        for upload in self._uploads:
            upload.complete()
        self._uploads = []
        return f"s3://{self._bucket}/{self._key}"

    def _make_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if _code(error) not in _NO_BUCKET:
                raise
            try:
                self._client.create_bucket(Bucket=self._bucket)
            except ClientError as refused:
                # another worker has made it in this moment
                if _code(refused) != "BucketAlreadyOwnedByYou":
                    raise

    def _abort_uploads(self) -> None:
        listing = self._client.get_paginator("list_multipart_uploads")
        # MinIO finds no uploads by the beginning of their key
        for key in self._upload_keys:
            for page in listing.paginate(Bucket=self._bucket, Prefix=key):
                for each in page.get("Uploads", []):
                    if each["Key"] == key:
                        self._abort(key, each["UploadId"])

    def _abort(self, key: str, upload_id: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except ClientError as error:
            if _code(error) not in _GONE:
                raise

    def _keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._key)
        return [
            each["Key"] for page in pages for each in page.get("Contents", []) if self._belongs(each["Key"])
        ]

    def _belongs(self, key: str) -> bool:
        return key in {self._key, self._manifest} or key.startswith(f"{self._key}/")

    def _is_ours(self, key: str) -> bool:
        found = _head(self._client, self._bucket, key)
        if found is None:
            return False
        metadata = found["Metadata"]
        mine = metadata.get(EXPORT_ID) == self._metadata[EXPORT_ID]
        return mine and int(metadata.get(_FENCE, 0)) <= self._fence


class _Upload:
    """One object in parts."""

    def __init__(
        self, client: S3Client, bucket: str, key: str, upload_id: str, metadata: dict[str, str]
    ) -> None:
        self.key = key
        self.upload_id = upload_id
        self._client = client
        self._metadata = metadata
        self._size = 0
        self._where: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
        self._buffer = bytearray()
        self._parts: list[CompletedPartTypeDef] = []

    def write(self, data: memoryview) -> None:
        """Send full parts."""
        self._buffer += data
        while len(self._buffer) >= _PART_BYTES:
            with memoryview(self._buffer) as buffer:
                part = bytes(buffer[:_PART_BYTES])
            self._send(part)
            del self._buffer[:_PART_BYTES]

    def flush(self) -> None:
        """Send the last part."""
        if self._buffer:
            self._send(bytes(self._buffer))
            self._buffer.clear()

    def complete(self) -> None:
        """Make the object appear."""
        try:
            self._client.complete_multipart_upload(**self._where, MultipartUpload={"Parts": self._parts})
        except ClientError as error:
            # so does a store refuse a repetition of what it has done, when its answer was lost
            if _code(error) not in _GONE or not self._is_there():
                raise

    def _is_there(self) -> bool:
        found = _head(self._client, self._where["Bucket"], self.key)
        if found is None:
            return False
        return (found["Metadata"], found["ContentLength"]) == (self._metadata, self._size)

    def _send(self, part: bytes) -> None:
        number = len(self._parts) + 1
        self._size += len(part)
        sent = self._client.upload_part(**self._where, PartNumber=number, Body=part)
        self._parts.append({"ETag": sent["ETag"], "PartNumber": number})


def _manifest(key: str) -> str:
    return f"{key}.manifest.json"


def _head(client: S3Client, bucket: str, key: str) -> HeadObjectOutputTypeDef | None:
    """Head of an object; None if there is none."""
    try:
        return client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _code(error) in _GONE:
            return None
        raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))

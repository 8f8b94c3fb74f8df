"""An S3 client that counts its requests and fails where a test wants it to."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import EndpointConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client


@contextmanager
def faults(client: S3Client, operation: str = "", after: int = 0) -> Iterator[Counter[str]]:
    """Count requests by operation; those of `operation` (default: none) fail after so many."""
    seen: Counter[str] = Counter()

    def before(model: Any, **_: Any) -> None:
        seen[model.name] += 1
        if model.name == operation and seen[model.name] > after:
            raise EndpointConnectionError(endpoint_url="http://s3.test")

    client.meta.events.register("before-call.s3", before)
    try:
        yield seen
    finally:
        client.meta.events.unregister("before-call.s3", before)


@contextmanager
def lost_completions(client: S3Client) -> Iterator[None]:
    """Uploads are completed, and the answer is what AWS and MinIO say to the repetition when it was lost."""

    def lose(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
        http_response.status_code = 404
        parsed["Error"] = {"Code": "NoSuchUpload", "Message": "The upload ID may be invalid."}

    client.meta.events.register("after-call.s3.CompleteMultipartUpload", lose)
    try:
        yield
    finally:
        client.meta.events.unregister("after-call.s3.CompleteMultipartUpload", lose)


@contextmanager
def uploads_by_exact_key(client: S3Client) -> Iterator[None]:
    """Uploads are listed as MinIO does: those of exactly the key that is asked for."""
    asked: list[str] = []

    def before(params: dict[str, Any], **_: Any) -> None:
        asked.append(params.get("Prefix", ""))

    def after(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Uploads"] = [each for each in parsed.get("Uploads", []) if each["Key"] == asked[-1]]

    client.meta.events.register("provide-client-params.s3.ListMultipartUploads", before)
    client.meta.events.register("after-call.s3.ListMultipartUploads", after)
    try:
        yield
    finally:
        client.meta.events.unregister("provide-client-params.s3.ListMultipartUploads", before)
        client.meta.events.unregister("after-call.s3.ListMultipartUploads", after)


@contextmanager
def small_pages(client: S3Client, size: int) -> Iterator[None]:
    """Listings come in pages of `size`."""

    def shrink(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = size

    client.meta.events.register("provide-client-params.s3.ListObjectsV2", shrink)
    try:
        yield
    finally:
        client.meta.events.unregister("provide-client-params.s3.ListObjectsV2", shrink)

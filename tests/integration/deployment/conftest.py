"""The containers' commands, run on this machine with the servers' addresses exchanged."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping  # dataclass fields
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from support import compose, forked

from ai_hub.db.migrate import migrate
from ai_hub.settings import postgres_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

_READY_S = 120


@dataclass(frozen=True)
class Containers:
    """What `docker compose` would run, and where its servers are instead."""

    passwords: Mapping[str, str]
    addresses: Mapping[str, str]
    #: variables that lead to TimescaleDB, which is not the PostgreSQL of the other databases here
    timescale: Mapping[str, str]
    folder: Path

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, with addresses of this machine."""
        file = compose.resolved(self.passwords)
        found: dict[str, str] = {}
        for name, value in file["services"][service]["environment"].items():
            found[name] = self._here(value)
            if value.startswith(("/app/feature_repo", "/app/policy")):
                found[name] = value.replace("/app", str(compose.ROOT))
        for config in file["services"][service].get("configs", []):
            mounted = self.folder / config["source"]
            mounted.write_text(self._here(file["configs"][config["source"]]["content"]))
            found |= {name: str(mounted) for name, value in found.items() if value == config["target"]}
        return found | {name: self.timescale[name] for name in found.keys() & self.timescale.keys()}

    def _here(self, text: str) -> str:
        for there, here in self.addresses.items():
            text = text.replace(there, here)
        return text

    def command(self, service: str, port: int | None = None) -> list[str]:
        """The service's command, listening on `port` of the loopback interface."""
        program, *arguments = compose.resolved(self.passwords)["services"][service]["command"]
        words = [re.sub(r"^(--(?:metrics-)?port=).*", rf"\g<1>{port}", word) for word in arguments]
        # one process of a server: each imports all of MLflow
        words = [re.sub("^--workers=2$", "--workers=1", word) for word in words]
        words = [word.replace("host=0.0.0.0", "host=127.0.0.1") for word in words]
        return [str(Path(sys.executable).with_name(program)), *words]

    def run(self, service: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run a service that ends by itself."""
        program, *arguments = self.command(service)
        return forked.run(
            [Path(program).name, *arguments], _base() | self.environment(service) | changed, self.folder
        )

    @contextmanager
    def serve(self, service: str, health: str = "/health", **changed: str) -> Iterator[str]:
        """Run a server; yields its URL once it answers at `health`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        log = self.folder / f"{service}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(service, port),
                env=_base() | self.environment(service) | changed,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _wait(f"{url}{health}", process, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="session")
def containers(
    stack: dict[str, str], native_postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Containers:
    """Commands of the compose file on a native PostgreSQL and the run's embedded servers."""
    migrate(stack["TIMESCALE_DSN"])
    passwords = {
        "POSTGRES_PASSWORD": secrets.token_hex(8),
        "MLFLOW_DB_PASSWORD": secrets.token_hex(8),
        "SERVICE_DB_PASSWORD": secrets.token_hex(8),
        "REDIS_PASSWORD": str(urlsplit(stack["REDIS_URL"]).password),
        "MINIO_ACCESS_KEY": stack["MINIO_ACCESS_KEY"],
        "MINIO_SECRET_KEY": stack["MINIO_SECRET_KEY"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(8),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(8),
        "GRAFANA_ADMIN_PASSWORD": secrets.token_hex(8),
        "MODEL_STORAGE_BUCKET": f"models-{secrets.token_hex(4)}",
    }
    redis, s3 = urlsplit(stack["REDIS_URL"]), urlsplit(stack["MINIO_ENDPOINT_URL"])
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        # as the image of TimescaleDB does
        connection.execute(f"CREATE ROLE ai_hub SUPERUSER LOGIN PASSWORD '{passwords['POSTGRES_PASSWORD']}'")
        connection.execute("CREATE DATABASE ai_hub OWNER ai_hub")
    return Containers(
        passwords=passwords,
        addresses={
            "timescaledb:5432": f"127.0.0.1:{urlsplit(native_postgres).port}",
            "redis:6379": f"{redis.hostname}:{redis.port}",
            "http://minio:9000": f"http://{s3.hostname}:{s3.port}",
        },
        timescale=postgres_environment(stack["TIMESCALE_DSN"]),
        folder=tmp_path_factory.mktemp("containers"),
    )


@pytest.fixture(scope="session")
def provisioned(containers: Containers) -> Containers:
    """The same after the service `init`."""
    done = containers.run("init")
    assert done.returncode == 0, done.stderr
    return containers


def _base() -> dict[str, str]:
    """What a container has: no settings of this machine."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail(f"{url} did not become healthy:\n{log.read_text()[-4000:]}", pytrace=False)

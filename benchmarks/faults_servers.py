"""Servers that can be killed and restarted, proxies in front of them, and the service with its data."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import psutil

from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from benchmarks import servers
from benchmarks.service_site import TENANTS, Service, Site, clean_environment
from benchmarks.tcp_proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


EMBEDDED = ("timescaledb", "redis", "s3", "mlflow")


class Server(ABC):
    """A server that can be killed and started again."""

    port: int

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to all its processes."""

    @abstractmethod
    def start(self) -> None:
        """Start it again, and wait until it works."""


class Stack:
    """Embedded servers in a folder of their own, and their settings."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._names = names
        self._folder = folder
        self._environment = clean_environment() | {"AI_HUB_STATE_DIR": str(folder / "state")}

    def up(self, *names: str) -> None:
        """Start the servers that do not run."""
        only = [option for name in names or self._names for option in ("--only", name)]
        self._run("up", "--detach", *only)

    def down(self) -> None:
        """Stop and delete them."""
        self._run("down", "--purge")

    def settings(self) -> dict[str, str]:
        """Environment variables of the servers."""
        return dict(json.loads(self._run("env", "--json")))

    def record(self, name: str) -> dict[str, int]:
        """Process and port of one server."""
        record = json.loads((self._folder / "state" / "stack.json").read_text())
        return dict(record["services"][name])

    def _run(self, *arguments: str) -> str:
        process = subprocess.run(
            [str(Path(sys.executable).with_name("ai-hub")), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self._folder,
        )
        if process.returncode:
            raise RuntimeError(f"ai-hub {' '.join(arguments)}: {process.stderr or process.stdout}")
        return process.stdout


class Embedded(Server):
    """One of the embedded servers; `ai-hub up` starts it again."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self._name = name

    @property
    def port(self) -> int:  # type: ignore[override]  # may change
        """Its port."""
        return int(self._stack.record(self._name)["port"])

    def kill(self) -> None:
        """See above."""
        kill_family(int(self._stack.record(self._name)["pid"]))

    def start(self) -> None:
        """See above."""
        self._stack.up(self._name)


class Native(Server):
    """A native TimescaleDB of its own."""

    def __init__(self, server: servers.Postgres) -> None:
        self._server = server
        self.port = server.port
        self._pid = server.pid

    def kill(self) -> None:
        """See above."""
        kill_family(self._pid)

    def start(self) -> None:
        """See above."""
        self._pid = self._server.start()


def kill_family(pid: int) -> None:
    """Send SIGKILL to a process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                os.kill(member.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)


@contextmanager
def embedded(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[Stack, dict[str, str]]]:
    """Embedded servers and their settings."""
    stack = Stack(folder, names)
    try:
        stack.up()
        yield stack, stack.settings()
    finally:
        stack.down()


@contextmanager
def native() -> Iterator[tuple[Native, str]]:
    """A native TimescaleDB and its address, where Debian's PostgreSQL has the extension."""
    with servers.postgres(
        "shared_preload_libraries=timescaledb", "timescaledb.telemetry_level=off", "shared_buffers=512MB"
    ) as server:
        with connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE DATABASE ai_hub TEMPLATE template0")
        yield Native(server), urlsplit(server.dsn)._replace(path="/ai_hub").geturl()


def has_native() -> bool:
    """Whether a native TimescaleDB can be started."""
    return any(Path("/usr/share/postgresql").glob("*/extension/timescaledb.control"))


def through(variables: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """The variables with other ports, which are given by variable."""
    return {
        name: urlsplit(value)._replace(netloc=_with_port(value, ports[name])).geturl()
        if name in ports
        else value
        for name, value in variables.items()
    }


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    login, separator, _ = parts.netloc.rpartition("@")
    return f"{login}{separator}{parts.hostname}:{port}"


#: Settings of what is proxied, by server.
_ADDRESSES = {
    "timescaledb": "TIMESCALE_DSN",
    "redis": "REDIS_URL",
    "s3": "MINIO_ENDPOINT_URL",
    "mlflow": "MLFLOW_TRACKING_URI",
}
_SETTINGS = (*_ADDRESSES.values(), "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MODEL_STORAGE_BUCKET")
BUCKET = "exports"
_OPEN = "import sys; from ai_hub.registry import ensure_tenant; [*map(ensure_tenant, sys.argv[1:])]"


@dataclass
class Ground:
    """Servers, their proxies, and the data that was written."""

    timescaledb: str
    direct: Site
    #: leads through the proxies
    site: Site
    servers: dict[str, Server]
    proxies: dict[str, Proxy]
    assets: list[str]
    days: int
    keys: dict[str, str] = field(default_factory=dict)

    def service(self, variables: dict[str, str]) -> Service:
        """The service with its export worker."""
        return Service(self.site, variables, options=())

    def bucket(self) -> Any:
        """Client of the S3 store, not through the proxy."""
        variables = self.direct.variables
        return boto3.client(
            "s3",
            endpoint_url=variables["MINIO_ENDPOINT_URL"],
            aws_access_key_id=variables["MINIO_ACCESS_KEY"],
            aws_secret_access_key=variables["MINIO_SECRET_KEY"],
            region_name="us-east-1",
        )

    def digest(self, storage_path: str) -> str:
        """SHA-256 of an exported file."""
        parts = urlsplit(storage_path)
        if parts.scheme == "s3":
            body = self.bucket().get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()
            return hashlib.sha256(body).hexdigest()
        with Path(parts.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Export jobs by id."""
        columns = "export_id::text, status, row_count, sha256, storage_path, error, attempts"
        with connect(self.direct.variables["TIMESCALE_DSN"]) as connection:
            cursor = connection.execute(f"SELECT {columns} FROM feature_exports")  # noqa: S608  # constants
            names = [column.name for column in cursor.description or ()]
            return {row[0]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}

    def state(self, service: Service) -> dict[str, Any]:
        """State that a fault must not change: served features and readings."""
        features = {}
        for tenant in TENANTS:
            status, answer = service.ask(
                "POST",
                "/ai/features/get",
                {"tenant_id": tenant, "asset_ids": self.assets, "feature_set": "forecast_advanced"},
                key=self.keys[tenant],
            )
            features[tenant] = (
                {result["asset_id"]: result["features"] for result in answer["results"]}
                if status == HTTPStatus.OK
                else status
            )
        with connect(self.direct.variables["TIMESCALE_DSN"]) as connection:
            readings = connection.execute(
                "SELECT tenant_id, count(*), sum(value) FROM timeseries_data"
                " WHERE tenant_id = ANY(%s) GROUP BY 1 ORDER BY 1",
                [list(TENANTS)],
            ).fetchall()
        return {"features": features, "readings": readings}

    def versions(self, service: Service, model: str) -> list[str]:
        """Versions of a model of the first tenant."""
        path = f"/ai/models/?tenant_id={TENANTS[0]}&model_name={model}&limit=1000"
        status, answer = service.ask("GET", path, key=self.keys[TENANTS[0]])
        if status != HTTPStatus.OK:
            raise RuntimeError(f"{status}: {answer}")
        return [str(version["version"]) for version in answer["models"]]


@contextmanager
def prepared(folder: Path, timescaledb: str, assets: int, days: int) -> Iterator[Ground]:
    """Embedded servers, `native` or `embedded` TimescaleDB, and readings of two tenants."""
    with ExitStack() as cleanup:
        names = EMBEDDED[timescaledb == "native" :]
        stack, settings = cleanup.enter_context(embedded(folder, names))
        servers: dict[str, Server] = {name: Embedded(stack, name) for name in names}
        variables = {name: settings[name] for name in _SETTINGS if name in settings}
        if timescaledb == "native":
            servers["timescaledb"], variables["TIMESCALE_DSN"] = cleanup.enter_context(native())
        migrate(variables["TIMESCALE_DSN"])
        proxies = {name: cleanup.enter_context(proxied(server.port)) for name, server in servers.items()}
        direct = Site(folder, variables)
        ports = {_ADDRESSES[name]: proxy.port for name, proxy in proxies.items()}
        site = Site(folder, through(variables, ports))
        series = direct.fill(assets, days)
        direct.apply()
        ground = Ground(timescaledb, direct, site, servers, proxies, series.names, days)
        ground.keys = {tenant: direct.key(tenant) for tenant in TENANTS}
        direct.run("python", "-c", _OPEN, *TENANTS)
        ground.bucket().create_bucket(Bucket=BUCKET)
        yield ground


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the values that differ."""
    return [name for name in before if _text(before[name]) != _text(after[name])]


def _text(fact: Any) -> str:
    return json.dumps(fact, default=str, sort_keys=True)

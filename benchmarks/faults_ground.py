"""What faults happen to: servers with proxies in front of them, data, and the service on top."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3

from ai_hub.database import connect
from ai_hub.database.migrate import migrate
from benchmarks import faults_servers
from benchmarks.faults_proxy import Proxy, proxied
from benchmarks.faults_servers import Embedded, Server, Stack
from benchmarks.service_process import Service
from benchmarks.service_site import TENANTS, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Settings of what is proxied, by server.
_ADDRESSES = {
    "timescaledb": "TIMESCALE_DSN",
    "redis": "REDIS_URL",
    "s3": "MINIO_ENDPOINT_URL",
    "mlflow": "MLFLOW_TRACKING_URI",
}
_TAKEN = (*_ADDRESSES.values(), "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MODEL_STORAGE_BUCKET")
BUCKET = "exports"
_OPEN = "import sys; from ai_hub.registry import ensure_tenant; [*map(ensure_tenant, sys.argv[1:])]"


@dataclass
class Ground:
    """Servers, the ways to them, and what is known of the data."""

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

    def digest(self, place: str) -> str:
        """SHA-256 of an exported file."""
        parts = urlsplit(place)
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

    def facts(self, service: Service) -> dict[str, Any]:
        """What must be the same after a fault: features as they are served, readings, models."""
        features = {}
        for tenant in TENANTS:
            status, answer = service.ask(
                "POST",
                "/ai/features/get",
                {"tenant_id": tenant, "asset_ids": self.assets, "feature_set": "forecast_advanced"},
                key=self.keys[tenant],
            )
            features[tenant] = (
                {each["asset_id"]: each["features"] for each in answer["results"]}
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
        return [str(each["version"]) for each in answer["models"]]


@contextmanager
def prepared(folder: Path, timescaledb: str, assets: int, days: int) -> Iterator[Ground]:
    """Embedded servers, `native` or `embedded` TimescaleDB, and readings of two tenants."""
    with ExitStack() as cleanup:
        names = faults_servers.EMBEDDED[timescaledb == "native" :]
        embedded: Stack
        embedded, settings = cleanup.enter_context(faults_servers.embedded(folder, names))
        servers: dict[str, Server] = {name: Embedded(embedded, name) for name in names}
        variables = {name: settings[name] for name in _TAKEN if name in settings}
        if timescaledb == "native":
            servers["timescaledb"], variables["TIMESCALE_DSN"] = cleanup.enter_context(
                faults_servers.native()
            )
        migrate(variables["TIMESCALE_DSN"])
        proxies = {name: cleanup.enter_context(proxied(server.port)) for name, server in servers.items()}
        direct = Site(folder, variables)
        ports = {_ADDRESSES[name]: proxy.port for name, proxy in proxies.items()}
        site = Site(folder, faults_servers.through(variables, ports))
        series = direct.fill(assets, days)
        direct.apply()
        ground = Ground(timescaledb, direct, site, servers, proxies, series.names, days)
        ground.keys = {tenant: direct.key(tenant) for tenant in TENANTS}
        direct.run("python", "-c", _OPEN, *TENANTS)
        ground.bucket().create_bucket(Bucket=BUCKET)
        yield ground


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of facts that are not the same."""
    return [name for name in before if _text(before[name]) != _text(after[name])]


def _text(fact: Any) -> str:
    return json.dumps(fact, default=str, sort_keys=True)

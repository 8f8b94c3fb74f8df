"""An installation of the service to be measured: settings, meters, registry, keys, and its process."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence  # dataclass fields
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.settings import Settings
from benchmarks import history
from benchmarks.history import HOUR, History, this_hour
from benchmarks.servers import HOST, PAUSE_JOBS, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


TENANTS = (history.TENANT, "other")
_FOREIGN_PREFIXES = ("PG", "AI_HUB_", "AWS_", "MLFLOW_", "FEAST_", "REDIS")
#: The second tenant has the same meters.
_COPY = (
    """
    INSERT INTO assets (tenant_id, asset_id, kind, unit, weather_asset_id)
    SELECT %(to)s, asset_id, kind, unit, weather_asset_id FROM assets WHERE tenant_id = %(from)s
    """,
    """
    INSERT INTO weather_features
        (tenant_id, asset_id, "timestamp", available_at, temperature, humidity, solar_irradiance)
    SELECT %(to)s, asset_id, "timestamp", available_at, temperature, humidity, solar_irradiance
    FROM weather_features WHERE tenant_id = %(from)s
    """,
    """
    INSERT INTO timeseries_data (tenant_id, asset_id, "timestamp", value)
    SELECT %(to)s, asset_id, "timestamp", value FROM timeseries_data WHERE tenant_id = %(from)s
    """,
)


def clean_environment() -> dict[str, str]:
    """Environment of this process without variables that name servers."""
    foreign = {name.upper() for name in Settings.model_fields}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith(_FOREIGN_PREFIXES)
    }


@dataclass(frozen=True)
class Site:
    """Settings of the servers, as environment variables, and a working folder."""

    folder: Path
    variables: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses these servers and no others."""
        defaults = {
            "AI_HUB_STATE_DIR": str(self.folder / "state"),
            "FEAST_REGISTRY_URI": f"sqlite:///{self.folder / 'feast-registry.db'}",
            "EXPORT_STORAGE_PATH": str(self.folder / "exports"),
        }
        return clean_environment() | defaults | dict(self.variables)

    def run(self, program: str, *arguments: str) -> str:
        """Standard output of a command of the product.

        Raises:
            RuntimeError: it failed.
        """
        process = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )
        if process.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {process.stderr or process.stdout}")
        return process.stdout

    def fill(self, assets: int, days: int, tenants: Sequence[str] = TENANTS) -> History:
        """Write readings of `assets` meters per tenant for `days` days, through the previous hour."""
        series = History(assets, days, this_hour() - HOUR)
        dsn = self.variables["TIMESCALE_DSN"]
        with connect(dsn, autocommit=True) as connection:
            connection.execute(PAUSE_JOBS)
            series.add_assets(connection)
            history.write(connection, series.rows())
            for statement in _COPY:
                for tenant in tenants[1:]:
                    connection.execute(statement, {"from": TENANTS[0], "to": tenant})
        self.run("ai-hub", "refresh")
        with connect(dsn, autocommit=True) as connection:
            connection.execute("ANALYZE")
        return series

    def apply(self) -> None:
        """Apply the feature repository, and materialize the newest features."""
        repository = str(paths.resource("feature_repo"))
        variables: dict[str, Any] = json.loads(self.run("ai-hub", "env", "--json"))
        Site(self.folder, {**self.variables, **variables}).run("feast", "-c", repository, "apply")
        self.materialize()

    def materialize(self) -> None:
        """Materialize the newest features into Redis."""
        self.run("ai-hub", "materialize")

    def key(self, tenant: str, role: str = "engineer") -> str:
        """A new API key of a tenant."""
        options = ("--tenant", tenant, "--role", role, "--json")
        return str(json.loads(self.run("ai-hub", "keys", "create", f"bench-{role}", *options))["key"])


_START_S = 240
_STOP_S = 30


@dataclass
class Service:
    """The service of a site; its log is in the site's folder."""

    site: Site
    variables: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ("--no-export-worker",)
    command: tuple[str, ...] = (str(Path(sys.executable).with_name("ai-hub")), "serve")
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it ended, or does not answer.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "--port", str(self.port), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.site.environment | self.variables,
                cwd=self.site.folder,
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.ask("GET", "/health/live")
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"the service did not start:\n{self.log.read_text()[-4000:]}")

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.site.folder / "service.log"

    def stop(self) -> None:
        """Terminate it, and wait."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(
        self, method: str, path: str, content: Any = None, *, key: str = "", timeout: float = 60
    ) -> tuple[int, Any]:
        """Status and JSON body of the answer to one request; the body is text if it is no JSON."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        headers = {"Content-Type": "application/json", "X-API-Key": key}
        body = None if content is None else json.dumps(content).encode()
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read().decode()
        connection.close()
        try:
            return response.status, json.loads(answer)
        except ValueError:
            return response.status, answer


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """The service, stopped at the end."""
    try:
        service.start()
        yield service
    finally:
        service.stop()

"""`ai-hub serve` as a process that can be stopped, killed and started again."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.service_site import Site  # a dataclass field
from benchmarks.stores import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        """What it printed."""
        return self.site.folder / "service.log"

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(
        self, method: str, path: str, content: Any = None, *, key: str = "", patience: float = 60
    ) -> tuple[int, Any]:
        """Status and JSON body of the answer to one request; the body is text if it is no JSON."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=patience)
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

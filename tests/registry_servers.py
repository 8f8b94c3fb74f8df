"""MLflow servers of a test's own, which start within a second: the real application, forked from a process
that has imported MLflow already. They can be killed and started again on the same database and port.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_hub.stack.mlflow_server import environment
from mlflow_plugins.artifacts import destination

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

FORKS = multiprocessing.get_context("forkserver")
#: The first makes MLflow take the rest for a server's process.
_PRELOADED = ["uvicorn", "mlflow.server.fastapi_app", "mlflow_plugins.store.lifecycle_store"]
_START_S = 60
_SETTINGS = ("MINIO_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MODEL_STORAGE_BUCKET")


@dataclass
class Server:
    """One process that serves `url`; `settings` are the variables it runs with."""

    port: int
    app: str
    settings: Mapping[str, str]
    log: Path
    process: BaseProcess | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        FORKS.set_forkserver_preload(_PRELOADED)
        self.process = FORKS.Process(
            target=_serve, args=(self.app, self.port, dict(self.settings), str(self.log))
        )
        self.process.start()
        deadline = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()  # noqa: S310  # our own
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > deadline or not self.process.is_alive():
                    raise AssertionError(self.log.read_text()) from error
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End it at once, wherever it is."""
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


@contextmanager
def running(
    database: str,
    stack: Mapping[str, str],
    folder: Path,
    *,
    app: str = "ai-hub",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server on `database` (`sqlite:///…` or `postgresql://…`) with the stack's S3 store.

    Args:
        database: MLflow's own and the registry's.
        stack: settings of the embedded stack.
        folder: where its log goes.
        app: entry point of the application.
        settings: more variables of its environment.
    """
    variables = {
        **environment({name: stack[name] for name in _SETTINGS} | {"MLFLOW_BACKEND_STORE_URI": database}),
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": f"lifecycle+{database}",
        destination.SERVE_ARTIFACTS: "true",
        destination.ARTIFACTS_DESTINATION: f"minio://{stack['MODEL_STORAGE_BUCKET']}",
        destination.ARTIFACT_ROOT: "mlflow-artifacts:/",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_ENABLE_WORKSPACES": "true",
        **(settings or {}),
    }
    server = Server(_free_port(), app, variables, folder / "mlflow-server.log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def routes(app: str, settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Method and path of every route of an application, its mounted parts' and Flask's included.

    Args:
        app: entry point of the application.
        settings: the variables it needs to be built.
    """
    FORKS.set_forkserver_preload(_PRELOADED)
    receiving, sending = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send_routes, args=(app, dict(settings), sending))
    process.start()
    sending.close()
    found: list[tuple[str, str]] = receiving.recv()
    process.join()
    return found


def _send_routes(app: str, variables: dict[str, str], sending: Connection) -> None:
    from fastapi.openapi.utils import get_openapi  # noqa: PLC0415  # in the process of its own only
    from mlflow.server import app as flask_app  # noqa: PLC0415

    os.environ.update(variables)
    (point,) = entry_points(group="mlflow.app", name=app)
    mounts = point.load()().routes
    found = {(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods or ()}
    for mount in mounts:
        paths = get_openapi(title="", version="", routes=mount.app.routes)["paths"]
        found |= {
            (method.upper(), mount.path + path) for path, methods in paths.items() for method in methods
        }
    sending.send(sorted(found))


def _serve(app: str, port: int, variables: dict[str, str], log: str) -> None:
    import uvicorn  # noqa: PLC0415  # in the server's process only

    sys.stdout.flush()
    with open(log, "ab", buffering=0) as stream:  # noqa: PTH123  # a descriptor is what is wanted
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(variables)
    (point,) = entry_points(group="mlflow.app", name=app)
    create_app: Any = point.load()
    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="warning")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

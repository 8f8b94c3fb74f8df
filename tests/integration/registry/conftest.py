"""Registry stores on SQLite and on PostgreSQL, and a real MLflow server with a real S3 store."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import Model

from mlflow_plugins import destination
from mlflow_plugins.registry_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Where Debian's packages put the programs of each version.
_POSTGRES_BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("no-postgresql"))
_SERVER_VARIABLES = (
    destination.SERVE_ARTIFACTS,
    destination.ARTIFACTS_DESTINATION,
    destination.ARTIFACT_ROOT,
)


@pytest.fixture(autouse=True)
def _outside_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*_SERVER_VARIABLES, "MLFLOW_ENABLE_WORKSPACES", "MLFLOW_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's and our tables; copying it is much faster than migrating."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    with opened(f"lifecycle+sqlite:///{path}"):
        pass
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a native PostgreSQL with MLflow's and our tables, shared by all tests."""
    if not _POSTGRES_BIN.is_dir():
        pytest.skip("needs the Debian package postgresql, whose row locks are the point")
    with _postgres_server() as url, opened(f"lifecycle+{url}"):
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a registry on each database."""
    if request.param == "postgresql":
        return f"lifecycle+{request.getfixturevalue('postgres')}"
    path = tmp_path / "mlflow.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return f"lifecycle+sqlite:///{path}"


@pytest.fixture
def store(store_uri: str) -> Iterator[LifecycleStore]:
    """A registry outside a server: versions stay where they were logged."""
    with opened(store_uri) as store:
        yield store


@pytest.fixture
def sqlite_store(sqlite_template: Path, tmp_path: Path) -> Iterator[LifecycleStore]:
    """A registry on SQLite, where the database makes no difference."""
    path = tmp_path / "mlflow.db"
    shutil.copy(sqlite_template, path)
    with opened(f"lifecycle+sqlite:///{path}") as store:
        yield store


@pytest.fixture
def model(store: LifecycleStore) -> Model:
    """A model of its own for each test."""
    return Model(store)


@contextmanager
def opened(uri: str) -> Iterator[LifecycleStore]:
    """A store whose connections are closed at the end."""
    store = LifecycleStore(uri)
    yield store
    store._dispose_engine()
    SqlAlchemyStore._engine_map.pop(uri.removeprefix("lifecycle+"), None)


@contextmanager
def _postgres_server() -> Iterator[str]:
    # not below pytest's own folder, which another user cannot enter
    with tempfile.TemporaryDirectory(prefix="registry-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("nobody")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = folder / "data"
        _as_other_user(["initdb", "-D", str(data), "-U", "mlflow", "--auth=trust", "--no-sync"], folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder} -c fsync=off"
        log = str(folder / "log")
        _as_other_user(["pg_ctl", "-D", str(data), "-w", "-l", log, "-o", options, "start"], folder)
        try:
            with psycopg.connect(
                f"host=127.0.0.1 port={port} user=mlflow dbname=postgres", autocommit=True
            ) as link:
                link.execute("CREATE DATABASE mlflow")
            yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
        finally:
            _as_other_user(["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop"], folder)


def _as_other_user(command: Sequence[str], folder: Path) -> None:
    """Run a PostgreSQL program, which refuses to run as root."""
    drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    program = [str(_POSTGRES_BIN / command[0]), *command[1:]]
    with (folder / "output").open("ab") as output:
        subprocess.run([*drop, *program], check=True, stdout=output, stderr=output, cwd="/", timeout=60)

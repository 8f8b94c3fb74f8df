"""Registry stores on SQLite and on PostgreSQL, and a real MLflow server with a real S3 store."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from oracles.lifecycle import Model
from support.registry_servers import opened

from ai_hub import cli
from mlflow_plugins.artifacts import destination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

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
def postgres_template(native_postgres: str) -> str:
    """Name of a database with MLflow's and our tables on `native_postgres`, to make others from."""
    name = "registry_template"
    with opened(f"lifecycle+{_created(native_postgres, name)}"):
        return name


@pytest.fixture(scope="session")
def postgres(native_postgres: str, postgres_template: str) -> Iterator[str]:
    """URL of a database with MLflow's and our tables, shared by all tests; real row locks are the point."""
    url = _created(native_postgres, "registry", postgres_template)
    with opened(f"lifecycle+{url}"):
        yield url


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.long), "postgresql"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a registry on PostgreSQL, and in `make test-long` on SQLite; see `each_database`."""
    if request.param == "postgresql":
        return f"lifecycle+{request.getfixturevalue('postgres')}"
    path = tmp_path / "mlflow.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return f"lifecycle+sqlite:///{path}"


@pytest.fixture(scope="module", params=[pytest.param("sqlite", marks=pytest.mark.long), "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a database of the module's own with MLflow's and our tables, of each kind, for a server."""
    if request.param == "sqlite":
        file = tmp_path_factory.mktemp("registry") / "mlflow.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), file)
        return f"sqlite:///{file}"
    server, template = map(request.getfixturevalue, ("native_postgres", "postgres_template"))
    return _created(server, f"registry_{secrets.token_hex(4)}", template)


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


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `ai-hub` in this process: status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ai-hub", *arguments])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        status = exit_.value.code
        return (status if isinstance(status, int) else 0), printed.out, printed.err

    return run


def _created(server: str, name: str, template: str = "template1") -> str:
    """URL of a new database of a PostgreSQL server, a copy of `template`."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return urlsplit(server)._replace(path=f"/{name}").geturl()

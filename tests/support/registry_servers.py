"""MLflow servers of a test's own (see `benchmarks.mlflow_servers`), their databases, and what they answer."""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from benchmarks.mlflow_servers import FORKS, PRELOADED, Server, running
from mlflow_plugins.store.lifecycle_store import LifecycleStore
from support.workers import once

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path

__all__ = [
    "FORKS",
    "PRELOADED",
    "Server",
    "each_database",
    "migrated_sqlite",
    "opened",
    "routes",
    "running",
    "sqlite_template",
]

#: For tests of what databases do differently: they run on both in `make test`, too.
each_database = pytest.mark.parametrize("store_uri", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `migrated_sqlite`."""
    return migrated_sqlite(tmp_path_factory.getbasetemp())


def migrated_sqlite(base: Path) -> Path:
    """A database with MLflow's and our tables; copying it is much faster than migrating.

    Args:
        base: see `once`.
    """

    def make(path: Path) -> None:
        partial = path.with_suffix(".partial")
        with opened(f"lifecycle+sqlite:///{partial}"):
            pass
        partial.rename(path)

    return once(base, "migrated-registry.db", make)


@contextmanager
def opened(uri: str) -> Iterator[LifecycleStore]:
    """A store whose connections are closed at the end."""
    store = LifecycleStore(uri)
    yield store
    store._dispose_engine()
    SqlAlchemyStore._engine_map.pop(uri.removeprefix("lifecycle+"), None)


def routes(app: str, settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Method and path of every route of an application, its mounted parts' and Flask's included.

    Args:
        app: entry point of the application.
        settings: the variables it needs to be built.
    """
    FORKS.set_forkserver_preload(PRELOADED)
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
    parts = point.load()().parts
    found = {(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods or ()}
    for start, part in parts:
        paths = get_openapi(title="", version="", routes=part.routes)["paths"]
        found |= {(method.upper(), start + path) for path, methods in paths.items() for method in methods}
    sending.send(sorted(found))

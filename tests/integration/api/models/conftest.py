"""One MLflow without login, and a service whose callers have every kind of key."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import model_service
import pytest
import registry_servers
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from model_service import ACME, PEOPLE, POLICY, ModelService

from ai_hub import registry
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's database without anything in it; copy it."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    store = LifecycleStore(f"lifecycle+sqlite:///{path}")
    store._dispose_engine()
    SqlAlchemyStore._engine_map.pop(f"sqlite:///{path}", None)
    return path


@pytest.fixture(scope="session")
def mlflow_server(
    servers: Any, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    """MLflow without login."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "mlflow.db").write_bytes(database.read_bytes())
    (folder / "policy.yaml").write_text(POLICY)
    with registry_servers.running(
        f"sqlite:///{folder / 'mlflow.db'}",
        servers.start("s3"),
        folder,
        settings={"PROMOTION_POLICY_PATH": str(folder / "policy.yaml")},
    ) as running:
        yield running


@pytest.fixture(scope="module")  # it changes what other services of this process ask
def service(mlflow_server: registry_servers.Server) -> Iterator[ModelService]:
    """A service with the people above."""
    with model_service.running(mlflow_server.url, PEOPLE) as running:
        registry.ensure_tenant(ACME)
        yield running


@pytest.fixture
def model() -> str:
    """A model no other test uses."""
    return f"model-{secrets.token_hex(4)}"

"""One MLflow without login, and a service whose callers have every kind of key."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support import model_service, registry_servers
from support.model_service import ACME, PEOPLE, POLICY, ModelService

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def mlflow_server(
    servers: Any, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    """MLflow without login."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(sqlite_template, folder / "mlflow.db")
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

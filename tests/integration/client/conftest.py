"""A real registry on a real S3 store, with a tenant of the test's own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from support import registry_servers
from support.registry_tenant import Tenant, new_tenant

from ai_hub.client import production_model
from mlflow_plugins.artifacts.s3 import s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Stack
    from mypy_boto3_s3 import S3Client


@pytest.fixture(scope="module")
def registry_server(
    servers: Stack, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    with registry_servers.running(f"sqlite:///{folder}/mlflow.db", servers.start("s3"), folder) as server:
        yield server


@pytest.fixture
def acme(registry_server: registry_servers.Server, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_server.url)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(production_model, "_START_TIMEOUT_S", 10.0)
    return new_tenant(registry_server.url)


@pytest.fixture
def s3(registry_server: registry_servers.Server) -> S3Client:
    """The store itself, past every door."""
    del registry_server
    return s3_client()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The client's model cache."""
    return tmp_path / "cache"

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow.exceptions import MlflowException
from mlflow.server import constants

from mlflow_plugins.artifacts import destination
from mlflow_plugins.artifacts.destination import current_destination

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (destination.SERVE_ARTIFACTS, destination.ARTIFACTS_DESTINATION, destination.ARTIFACT_ROOT)


@pytest.fixture(autouse=True)
def _outside_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "MLFLOW_ENABLE_WORKSPACES"):
        monkeypatch.delenv(name, raising=False)


def test_names__are_those_mlflow_exports() -> None:
    assert NAMES == (
        constants.SERVE_ARTIFACTS_ENV_VAR,
        constants.ARTIFACTS_DESTINATION_ENV_VAR,
        constants.ARTIFACT_ROOT_ENV_VAR,
    )


def test_current_destination__outside_a_server__is_none() -> None:
    assert current_destination() is None


def test_current_destination__minio_with_a_path__is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(destination.SERVE_ARTIFACTS, "true")
    monkeypatch.setenv(destination.ARTIFACTS_DESTINATION, "minio://ml-models/models")
    with pytest.raises(MlflowException, match="minio://BUCKET"):
        current_destination()


@pytest.mark.parametrize(
    "source", ["s3://ml-models/acme/x", "minio://ml-models/acme/x", "file:///etc", "/etc", "https://host/x"]
)
def test_folder__of_what_the_server_does_not_store__is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    monkeypatch.setenv(destination.SERVE_ARTIFACTS, "true")
    for root in ("minio://ml-models", str(tmp_path)):
        monkeypatch.setenv(destination.ARTIFACTS_DESTINATION, root)
        found = current_destination()
        assert found is not None
        with pytest.raises(MlflowException, match="only copies artifacts it stores itself"):
            found.folder(source, "default")


@pytest.mark.parametrize(
    "source",
    ["mlflow-artifacts:/workspaces/beta/1/x", "mlflow-artifacts:/1/x", "mlflow-artifacts:/workspaces/acme"],
)
def test_folder__of_another_tenant_or_of_everything__is_refused(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.setenv(destination.SERVE_ARTIFACTS, "true")
    monkeypatch.setenv(destination.ARTIFACTS_DESTINATION, "minio://ml-models")
    found = current_destination()
    assert found is not None
    with pytest.raises(MlflowException, match=r"does not belong|names no model"):
        found.folder(source, "acme")


def test_direct__without_the_proxy__is_below_the_artifact_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(destination.ARTIFACT_ROOT, str(tmp_path))
    found = current_destination()
    assert found is not None
    uri = found.uri("default", "demand", "v1.0.0")
    found.folder(uri, "default").write("MLmodel", b"x")
    assert (tmp_path / ".models/demand/v1.0.0/MLmodel").read_bytes() == b"x"

"""Whatever is changed in S3 after a registration is refused by every door, by the file's name."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_context import WorkspaceContext
from support import registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from ai_hub.errors import ConflictError
from mlflow_plugins.artifacts.s3 import s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Stack
    from mypy_boto3_s3 import S3Client

BUCKET = "ml-models"


@pytest.fixture(scope="module")
def server(
    servers: Stack, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    with registry_servers.running(f"sqlite:///{folder}/mlflow.db", servers.start("s3"), folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _client(server: registry_servers.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    # what a client has without settings: it would retry for minutes what is worth retrying
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    mlflow.set_tracking_uri(server.url)
    mlflow.set_registry_uri(server.url)
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def acme(server: registry_servers.Server) -> Tenant:
    return new_tenant(server.url)


@pytest.fixture
def s3(server: registry_servers.Server) -> S3Client:
    """The store itself, past every door."""
    del server
    return s3_client()


def _flip(s3: S3Client, folder: str) -> str:
    content = bytearray(_read(s3, f"{folder}/data/model.bin"))
    content[len(content) // 2] ^= 1
    s3.put_object(Bucket=BUCKET, Key=f"{folder}/data/model.bin", Body=bytes(content))
    return "data/model.bin"


def _delete(s3: S3Client, folder: str) -> str:
    s3.delete_object(Bucket=BUCKET, Key=f"{folder}/data/model.bin")
    return "data/model.bin"


def _add(s3: S3Client, folder: str) -> str:
    s3.put_object(Bucket=BUCKET, Key=f"{folder}/code/evil.py", Body=b"import os")
    return "code/evil.py"


def _swap(s3: S3Client, folder: str) -> str:
    first, second = (_read(s3, f"{folder}/{path}") for path in ("MLmodel", "data/model.bin"))
    s3.put_object(Bucket=BUCKET, Key=f"{folder}/MLmodel", Body=second)
    s3.put_object(Bucket=BUCKET, Key=f"{folder}/data/model.bin", Body=first)
    return "MLmodel"


def _forge(s3: S3Client, folder: str) -> str:
    """A manifest that fits the changed file."""
    name = _flip(s3, folder)
    document = json.loads(_read(s3, f"{folder}/manifest.json"))
    document["files"][name]["sha256"] = "0" * 64
    s3.put_object(Bucket=BUCKET, Key=f"{folder}/manifest.json", Body=json.dumps(document).encode())
    return "manifest.json"


def _delete_manifest(s3: S3Client, folder: str) -> str:
    s3.delete_object(Bucket=BUCKET, Key=f"{folder}/manifest.json")
    return "manifest.json"


@pytest.mark.parametrize("tamper", [_flip, _delete, _add, _swap, _forge, _delete_manifest])
def test_every_door__names_the_file(
    acme: Tenant, s3: S3Client, tmp_path: Path, tamper: Callable[[S3Client, str], str]
) -> None:
    run_id, source = acme.log_model(tmp_path / "model")
    with registry.tenant_scope(acme.name):
        for _ in range(2):
            acme.client.create_model_version(MODEL, source, run_id)
    assert acme.stage(1, "Production").status_code == 200
    (name,) = {tamper(s3, f"{acme.name}/{MODEL}/v1.0.{number}") for number in range(2)}

    for promotion in (
        acme.stage(2, "Production"),
        acme.alias("production", 2),
        acme.call("POST", f"/ai-hub/api/models/{MODEL}/versions/2/stage", json={"stage": "Production"}),
    ):
        assert promotion.status_code == 409
        assert f"Artifact {name} of " in promotion.json()["message"]
    with pytest.raises(ConflictError, match=f"Artifact {name} of .*\n.*ai-hub rollback"):
        registry.load_production(acme.name, MODEL)

    begun = time.monotonic()
    with WorkspaceContext(acme.name):
        with pytest.raises(Exception, match=f"Artifact {name} of .* since registration"):
            mlflow.artifacts.download_artifacts(f"models:/{MODEL}/2", dst_path=str(tmp_path / "after"))
        with pytest.raises(Exception, match=f"Artifact {name} of .* since registration"):
            mlflow.pyfunc.load_model(f"models:/{MODEL}@production")
    assert time.monotonic() - begun < 30, "nothing is retried: that would take minutes"

    with registry.tenant_scope(acme.name), pytest.raises(MlflowException, match=f"Artifact {name} of "):
        acme.client.create_model_version(MODEL, f"models:/{MODEL}/1")
    assert acme.stages() == {1: "Production", 2: "Staging"}


def test_every_way_to_one_file__is_checked(acme: Tenant, s3: S3Client, tmp_path: Path) -> None:
    acme.register(tmp_path / "model", b"weights")
    path = f"workspaces/{acme.name}/.models/{MODEL}/v1.0.0/data/model.bin"
    ui = {"name": MODEL, "version": "1", "path": "data/model.bin"}

    def ask() -> dict[str, tuple[int, str]]:
        answers = {
            "proxy": acme.artifact("GET", path),
            "pages": acme.call("GET", f"/ajax-api/2.0/mlflow-artifacts/artifacts/{path}"),
            "download": acme.call("GET", "/model-versions/get-artifact", params=ui),
        }
        return {door: (answer.status_code, answer.text) for door, answer in answers.items()}

    assert set(ask().values()) == {(200, "weights")}
    _flip(s3, f"{acme.name}/{MODEL}/v1.0.0")
    for door, (status, text) in ask().items():
        assert status == 409, door
        assert "data/model.bin of" in text, door
    _add(s3, f"{acme.name}/{MODEL}/v1.0.0")
    added = acme.artifact("GET", path.replace("data/model.bin", "code/evil.py"))
    assert added.status_code == 409
    assert "code/evil.py" in added.text
    assert acme.artifact("GET", path.replace("model.bin", "nothing")).status_code == 404
    with WorkspaceContext(acme.name), pytest.raises(Exception, match=r"data/model\.bin of"):
        mlflow.artifacts.download_artifacts(
            f"models:/{MODEL}/1/data/model.bin", dst_path=str(tmp_path / "after")
        )


def test_last_byte_of_a_large_file__no_byte_of_it_leaves(acme: Tenant, s3: S3Client, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    acme.register(tmp_path / "model", content)
    path, after = f"{MODEL}/v1.0.0/data/model.bin", tmp_path / "after"
    assert acme.artifact("GET", f"workspaces/{acme.name}/.models/{path}").content == content
    s3.put_object(Bucket=BUCKET, Key=f"{acme.name}/{path}", Body=content[:-1] + bytes([content[-1] ^ 1]))
    refused = acme.artifact("GET", f"workspaces/{acme.name}/.models/{path}")
    assert refused.status_code == 409
    assert "data/model.bin of" in refused.json()["message"]
    with WorkspaceContext(acme.name), pytest.raises(Exception, match=r"data/model\.bin of .* was changed"):
        mlflow.artifacts.download_artifacts(f"models:/{MODEL}/1", dst_path=str(after))
    assert not list(after.rglob("model.bin"))


def test_files_of_no_registered_version__are_neither_listed_nor_served(
    acme: Tenant, s3: S3Client, tmp_path: Path
) -> None:
    acme.register(tmp_path / "model")
    for orphan in (f"{MODEL}/v9.0.0", f"{MODEL}/notes", "nobody/v1.0.0"):
        s3.put_object(Bucket=BUCKET, Key=f"{acme.name}/{orphan}/MLmodel", Body=b"half of a model")

    def listed(path: str) -> list[str]:
        answer = acme.call("GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": path})
        assert answer.status_code == 200
        return [item["path"] for item in answer.json().get("files", [])]

    assert listed(".models") == [MODEL]
    assert listed(f".models/{MODEL}") == ["v1.0.0"]
    assert listed(f".models/{MODEL}/v1.0.0") == [
        "MLmodel", "data", "manifest.json", "metadata.json", "metrics.json",
    ]  # fmt: skip
    assert listed(f".models/{MODEL}/v1.0.0/data") == ["model.bin"]
    for nothing in (f"{MODEL}/v9.0.0", "nobody", "nobody/v1.0.0", f"{MODEL}/v1.0.0/data/model.bin"):
        assert listed(f".models/{nothing}") == []
    for orphan in (f"{MODEL}/v9.0.0", "nobody/v1.0.0", MODEL, f"{MODEL}/notes"):
        assert acme.artifact("GET", f".models/{orphan}/MLmodel").status_code == 404


def _read(s3: S3Client, key: str) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

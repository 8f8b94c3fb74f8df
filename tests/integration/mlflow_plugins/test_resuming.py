"""A registration whose store fails, or whose process is gone, goes on where it ended."""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from oracles.lifecycle import Model, refused
from support.s3_faults import faults

from mlflow_plugins.artifacts import destination, manifest
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client
from mlflow_plugins.registration import records

if TYPE_CHECKING:
    from conftest import Stack
    from mypy_boto3_s3 import S3Client

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

BUCKET = "ml-models"
FILES = {"MLmodel": b"flavors: {}"} | {f"data/{number}.bin": bytes(100 + number) for number in range(9)}


@pytest.fixture
def client(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> S3Client:
    servers.start("s3")
    monkeypatch.setenv(destination.SERVE_ARTIFACTS, "true")
    monkeypatch.setenv(destination.ARTIFACTS_DESTINATION, f"minio://{BUCKET}")
    return s3_client()


@pytest.fixture
def model(sqlite_store: LifecycleStore, client: S3Client) -> Model:
    del client
    return Model(sqlite_store)


@pytest.fixture
def source(client: S3Client) -> str:
    run = secrets.token_hex(4)
    folder = S3Folder(client, BUCKET, f"default/.runs/1/{run}/artifacts/model")
    for path, content in FILES.items():
        folder.write(path, content)
    return f"mlflow-artifacts:/1/{run}/artifacts/model"


@pytest.mark.parametrize(
    ("operation", "after", "copied_again"),
    [
        ("CopyObject", 0, 10),
        ("CopyObject", 4, 6),
        ("PutObject", 1, 0),
        ("PutObject", 2, 0),
        ("GetObject", 5, 0),
        ("ListObjectsV2", 2, 0),
    ],
)
def test_register__while_s3_fails__is_a_503__and_again_goes_on(
    model: Model, client: S3Client, source: str, operation: str, after: int, copied_again: int
) -> None:
    with faults(client, operation, after), pytest.raises(MlflowException, match="does not answer") as refusal:
        _register(model, source)
    assert refusal.value.get_http_status_code() == 503
    assert not model.stages()
    with faults(client) as requests:
        version = _register(model, source)
    assert requests["CopyObject"] == copied_again
    assert model.store.get_model_version(model.name, version).tags["semantic_version"] == "v1.0.0"
    assert model.stages() == {1: "Staging"}
    model.move(version, "Production")
    folder = _folder(client, model)
    assert folder.files().keys() == FILES.keys() | manifest.RESERVED
    assert json.loads(b"".join(folder.read("manifest.json")))["semantic_version"] == "v1.0.0"


def test_register__after_s3_failed__from_something_else__takes_nothing_over(
    model: Model, client: S3Client, source: str
) -> None:
    with faults(client, "PutObject"), pytest.raises(MlflowException, match="does not answer"):
        _register(model, source)
    other = S3Folder(client, BUCKET, f"default/.runs/1/{secrets.token_hex(4)}/artifacts/model")
    other.write("MLmodel", FILES["MLmodel"])
    _register(model, f"mlflow-artifacts:/{str(other).partition('.runs/')[2]}")
    assert _folder(client, model).files().keys() == {"MLmodel"} | manifest.RESERVED
    model.move(1, "Production")


def test_register__of_a_model_that_is_loaded_meanwhile__does_not_mind(
    model: Model, client: S3Client, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_from = S3Folder.copy_from

    def copy_then_load(self: S3Folder, origin: S3Folder, files: Any) -> Any:
        found = copy_from(self, origin, files)
        # as MLflow's client does in the folder that it loads a model from
        origin.write("registered_model_meta", b"model_name: demand")
        return found

    with monkeypatch.context() as fault:
        fault.setattr(S3Folder, "copy_from", copy_then_load)
        _register(model, source)
    assert _folder(client, model).files().keys() == FILES.keys() | manifest.RESERVED


def test_register__of_files_rewritten_meanwhile__is_refused(
    model: Model, client: S3Client, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_from = S3Folder.copy_from

    def copy_then_change(self: S3Folder, origin: S3Folder, files: Any) -> Any:
        found = copy_from(self, origin, files)
        origin.write("data/3.bin", b"x" * len(FILES["data/3.bin"]))
        return found

    with monkeypatch.context() as fault:
        fault.setattr(S3Folder, "copy_from", copy_then_change)
        text = refused(lambda: _register(model, source)) or ""
    assert "data/3.bin" in text
    assert "was changed while the model was being registered" in text
    with faults(client) as requests:
        _register(model, source)
    assert requests["CopyObject"] == 1


def test_claim__of_a_worker_that_lost_its_database__is_taken_over(
    model: Model, client: S3Client, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as fault, faults(client, "PutObject"):
        fault.setattr(records, "release_claim", lambda *_: None)  # as if the database had been gone
        with pytest.raises(MlflowException, match="does not answer"):
            _register(model, source)
    _register(model, source, semantic_version="v1.0.0")


def test_claim__of_another_machine__lasts_while_it_is_renewed(
    model: Model, client: S3Client, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere, faults(client, "PutObject"):
        elsewhere.setattr(records.socket, "gethostname", lambda: "elsewhere")
        elsewhere.setattr(records, "release_claim", lambda *_: None)
        with pytest.raises(MlflowException, match="does not answer"):
            _register(model, source, semantic_version="v1.0.0")
    assert "right now" in (refused(lambda: _register(model, source, semantic_version="v1.0.0")) or "")
    monkeypatch.setattr(records, "LEASE_MS", -1)
    _register(model, source, semantic_version="v1.0.0")
    assert model.stages() == {1: "Staging"}


def test_register__slowly__renews_its_claim(
    model: Model, client: S3Client, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del client
    monkeypatch.setattr(records, "LEASE_MS", 40)
    renewals: list[Any] = []
    write, renew = manifest.write, records.renew_claim

    def slowly(*arguments: Any) -> Any:
        while len(renewals) < 3:
            time.sleep(0.005)
        return write(*arguments)

    def counted(*arguments: Any) -> None:
        renew(*arguments)
        renewals.append(arguments)

    monkeypatch.setattr(manifest, "write", slowly)
    monkeypatch.setattr(records, "renew_claim", counted)
    _register(model, source)
    assert model.stages() == {1: "Staging"}


def test_registration_key__is_of_one_version_however_many_register(
    model: Model, sqlite_store: LifecycleStore, source: str
) -> None:
    def register(_: int) -> int | str:
        try:
            return _register(model, source, registration_key="request 7")
        except MlflowException as error:
            return f"{error.get_http_status_code()} {error}"

    with ThreadPoolExecutor(3) as pool:
        *refusals, version = sorted(pool.map(register, range(3)), key=lambda each: isinstance(each, int))
    assert (
        refusals
        == [f"409 Version {version} of {model.name} was registered with registration_key=request 7."] * 2
    )
    assert register(0) == refusals[0]
    assert list(model.stages()) == [version]
    # of another key, of none, and of another model
    assert _register(model, source, registration_key="request 8") != version
    assert _register(model, source) != version
    other = Model(sqlite_store)
    _register(other, source, registration_key="request 7")
    assert refused(lambda: model.tag(1, "registration_key", "request 9"))
    copied = _register(model, f"models:/{other.name}/1", registration_key="request 7")
    assert "registration_key" not in sqlite_store.get_model_version(model.name, copied).tags


def _register(model: Model, source: str, **tags: str) -> int:
    tag_list = [ModelVersionTag(key, value) for key, value in tags.items()]
    return int(model.store.create_model_version(model.name, source, tags=tag_list).version)


def _folder(client: S3Client, model: Model) -> S3Folder:
    return S3Folder(client, BUCKET, f"default/{model.name}/v1.0.0")

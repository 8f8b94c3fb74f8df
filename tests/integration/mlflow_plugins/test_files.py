"""What a registration does with files, in a store whose server would proxy a plain folder."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import Model, refused

from mlflow_plugins.artifacts import destination, folders, manifest
from mlflow_plugins.registration import records
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from pathlib import Path

LOAD = json.dumps([{"name": "load", "type": "double"}])
LOAD_AND_WEATHER = json.dumps([{"name": "load", "type": "double"}, {"name": "temperature", "type": "double"}])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind the artifact proxy."""
    root = tmp_path / "artifacts"
    root.mkdir()
    monkeypatch.setenv(destination.SERVE_ARTIFACTS, "true")
    monkeypatch.setenv(destination.ARTIFACTS_DESTINATION, str(root))
    return root


@pytest.fixture
def model(sqlite_store: LifecycleStore, root: Path) -> Model:
    del root
    return Model(sqlite_store, name="demand")


@pytest.fixture(autouse=True)
def _registered(sqlite_store: LifecycleStore) -> None:
    sqlite_store.create_registered_model("demand")


def test_register__fills_the_folder_and_points_there(model: Model, root: Path) -> None:
    version = _register(model, _logged(root, "run1"), note="first")
    folder = root / ".models/demand/v1.0.0"
    assert _files(folder) == {
        "MLmodel", "data/model.bin", "metadata.json", "metrics.json", "manifest.json",
    }  # fmt: skip
    uri = model.store.get_model_version_download_uri("demand", version)
    assert uri == "mlflow-artifacts:/.models/demand/v1.0.0"
    metadata = json.loads((folder / "metadata.json").read_bytes())
    assert metadata["tenant_id"] == "default"
    assert metadata["model_name"] == "demand"
    assert metadata["semantic_version"] == "v1.0.0"
    assert metadata["framework"] == "lightgbm"
    assert metadata["feature_names"] == ["load"]
    assert metadata["tags"] == {"note": "first", "semantic_version": "v1.0.0"}
    digest = model.store.get_model_version("demand", version).tags["manifest_sha256"]
    assert digest == _sha256(folder / "manifest.json")
    model.move(version, "Production")
    evidence = model.store.history("demand")[0].evidence["gates"]["manifest"]
    assert evidence["manifest"] == "verified"
    assert evidence["file_count"] == 5


def test_register__survives_the_cleaning_of_its_run(model: Model, root: Path) -> None:
    source = _logged(root, "run1")
    version = _register(model, source)
    for path in sorted((root / "1/run1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    model.move(version, "Production")


@pytest.mark.parametrize(
    ("tags", "signature", "expected"),
    [
        ({}, LOAD, "v1.0.1"),
        ({"feature_service": "forecast_advanced"}, LOAD, "v1.1.0"),
        ({"feature_service": "forecast_advanced"}, LOAD_AND_WEATHER, "v2.0.0"),
        ({}, None, "v2.0.0"),
    ],
)
def test_register__suggests_the_number_by_what_changed(
    model: Model, root: Path, tags: dict[str, str], signature: str | None, expected: str
) -> None:
    _register(model, _logged(root, "run1"), feature_service="forecast_basic")
    tags = {"feature_service": "forecast_basic", **tags}
    version = _register(model, _logged(root, "run2", signature=signature), **tags)
    assert model.store.get_model_version("demand", version).tags["semantic_version"] == expected


def test_promote__a_changed_file__is_refused_by_name(model: Model, root: Path) -> None:
    version = _register(model, _logged(root, "run1"))
    (root / ".models/demand/v1.0.0/data/model.bin").write_bytes(b"other")
    assert "data/model.bin" in (refused(lambda: model.move(version, "Production")) or "")
    assert "data/model.bin" in (refused(lambda: model.alias("production", version)) or "")
    assert model.stages() == {version: "Staging"}
    model.move(version, "Archived")  # no files are needed for that
    model.check()


def test_roll_back__a_changed_file__is_refused(model: Model, root: Path) -> None:
    first, second = (_register(model, _logged(root, run)) for run in ("run1", "run2"))
    model.move(first, "Production")
    model.move(second, "Production")
    (root / ".models/demand/v1.0.0/MLmodel").unlink()
    assert "MLmodel" in (refused(lambda: model.store.roll_back("demand")) or "")
    assert model.stages()[second] == "Production"


def test_delete__removes_exactly_its_folder(model: Model, root: Path) -> None:
    first, second = (_register(model, _logged(root, run)) for run in ("run1", "run2"))
    _register(model, _logged(root, "run3"), semantic_version="v1.0.10")  # shares the prefix of v1.0.1
    model.move(second, "Archived")
    deleted = model.store.remove_version("demand", second)
    assert deleted == [
        f"default/demand/v1.0.1/{path}"
        for path in ("MLmodel", "data/model.bin", "manifest.json", "metadata.json", "metrics.json")
    ]
    left = {path.name for path in (root / ".models/demand").iterdir() if _files(path)}
    assert left == {"v1.0.0", "v1.0.10"}
    assert _files(root / "1/run2")
    model.move(first, "Production")


@pytest.mark.parametrize(
    "following", ["the same deletion", "another deletion", "registration", "the model's"]
)
def test_delete__that_was_interrupted__is_finished_by_the_next(
    model: Model, root: Path, monkeypatch: pytest.MonkeyPatch, following: str
) -> None:
    first, second = (_register(model, _logged(root, run)) for run in ("run1", "run2"))
    model.move(first, "Archived")
    model.move(second, "Archived")
    with monkeypatch.context() as fault:
        fault.setattr(folders.RepositoryFolder, "delete", _fail)
        with pytest.raises(OSError, match="disk"):
            model.store.remove_version("demand", first)
    assert model.stages() == {second: "Archived"}
    assert len(_files(root / ".models/demand/v1.0.0")) == 5
    if following == "the same deletion":
        deleted = model.store.remove_version("demand", first)
        assert {path.rpartition("v1.0.0/")[0] for path in deleted} == {"default/demand/"}
        assert len(deleted) == 5
        with pytest.raises(MlflowException, match="not found"):
            model.store.remove_version("demand", first)
    elif following == "another deletion":
        deleted = model.store.remove_version("demand", second)
        assert {path.split("/")[2] for path in deleted} == {"v1.0.1"}
    elif following == "registration":
        _register(model, _logged(root, "run3"))
    else:
        model.store.delete_registered_model("demand")
    assert not _files(root / ".models/demand/v1.0.0")


def test_delete__of_a_model__that_was_interrupted__can_be_repeated(
    model: Model, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.move(_register(model, _logged(root, "run1")), "Archived")
    with monkeypatch.context() as fault:
        fault.setattr(folders.RepositoryFolder, "delete", _fail)
        with pytest.raises(OSError, match="disk"):
            model.store.delete_registered_model("demand")
    model.store.delete_registered_model("demand")
    assert not _files(root / ".models")
    with pytest.raises(MlflowException, match="not found"):
        model.store.delete_registered_model("demand")


def test_copy__to_another_model__has_its_own_files(model: Model, root: Path) -> None:
    version = _register(model, _logged(root, "run1"))
    other = Model(model.store)
    model.store.copy_model_version(model.store.get_model_version("demand", version), other.name)
    folder = root / ".models" / other.name / "v1.0.0"
    metadata = json.loads((folder / "metadata.json").read_bytes())
    assert metadata["model_name"] == other.name
    assert metadata["tags"]["copied_from"] == "models:/demand/1"
    assert _files(folder) == _files(root / ".models/demand/v1.0.0")
    other.move(1, "Production")


def test_register__without_files_or_with_ours__is_refused(model: Model, root: Path) -> None:
    with pytest.raises(MlflowException, match="no files") as refusal:
        _register(model, "mlflow-artifacts:/1/nowhere")
    assert refusal.value.get_http_status_code() == 404
    source = _logged(root, "run1")
    (root / "1/run1/artifacts/model/.ai-hub").mkdir()
    (root / "1/run1/artifacts/model/.ai-hub/notes").write_text("{}")
    with pytest.raises(MlflowException, match=r"\.ai-hub/notes") as refusal:
        _register(model, source)
    assert refusal.value.get_http_status_code() == 400
    shutil.rmtree(root / "1/run1/artifacts/model/.ai-hub")
    (root / "1/run1/artifacts/model/MLmodel").write_text("{ not yaml")
    with pytest.raises(MlflowException, match="not YAML") as refusal:
        _register(model, source)
    assert refusal.value.get_http_status_code() == 400
    assert not model.stages()
    assert not (root / ".models").exists()


def test_register__a_model_with_files_of_our_names__loses_none(model: Model, root: Path) -> None:
    source = _logged(root, "run1")
    logged = root / "1/run1/artifacts/model"
    for name in sorted(manifest.RESERVED):
        (logged / name).write_text(f"{name} of the model")
    mine = {path: (logged / path).read_bytes() for path in _files(logged)}
    ours = {f".ai-hub/{name}" for name in manifest.RESERVED}

    def check(folder: Path) -> None:
        assert _files(folder) == mine.keys() | ours
        assert {path: (folder / path).read_bytes() for path in mine} == mine

    version = _register(model, source)
    check(root / ".models/demand/v1.0.0")
    model.move(version, "Production")
    # a copy of the version, and the version's files logged to another run
    _register(model, "models:/demand/1")
    check(root / ".models/demand/v1.0.1")
    shutil.copytree(root / ".models/demand/v1.0.0", root / "1/run2/artifacts/model")
    _register(model, "mlflow-artifacts:/1/run2/artifacts/model")
    check(root / ".models/demand/v1.0.2")


def test_register__files_of_a_version_logged_to_a_run__are_not_doubled(model: Model, root: Path) -> None:
    _register(model, _logged(root, "run1"))
    shutil.copytree(root / ".models/demand/v1.0.0", root / "1/run2/artifacts/model")
    _register(model, "mlflow-artifacts:/1/run2/artifacts/model")
    assert _files(root / ".models/demand/v1.0.1") == _files(root / ".models/demand/v1.0.0")


@pytest.mark.parametrize("following", ["the same", "another number", "another model", "a day later"])
def test_register__that_failed__is_cleaned_up_by_the_next(
    model: Model, root: Path, monkeypatch: pytest.MonkeyPatch, following: str
) -> None:
    source = _logged(root, "run1")
    with monkeypatch.context() as fault:
        fault.setattr(manifest, "write", _fail)
        with pytest.raises(OSError, match="disk"):
            _register(model, source, semantic_version="v3.0.0")
    assert not model.stages()
    assert _files(root / ".models")
    if following == "the same":
        version = _register(model, source, semantic_version="v3.0.0")
        model.move(version, "Production")
    elif following == "another number":
        version = _register(model, source)
        assert model.store.get_model_version("demand", version).tags["semantic_version"] == "v1.0.0"
        assert {path.split("/")[1] for path in _files(root / ".models")} == {"v1.0.0"}
        model.move(version, "Production")
    else:
        if following == "a day later":
            monkeypatch.setattr(records, "KEPT_MS", -1)
        _register(Model(model.store), source)
        assert bool(_files(root / ".models/demand")) == (following == "another model")


def test_register__from_files_that_change_meanwhile__is_refused(
    model: Model, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _logged(root, "run1")
    upload = folders.RepositoryFolder._upload

    def copy_and_change(self: folders.RepositoryFolder, local: Path, path: str) -> None:
        upload(self, local, path)
        (root / "1/run1/artifacts/model/late.txt").touch()

    with monkeypatch.context() as fault:
        fault.setattr(folders.RepositoryFolder, "_upload", copy_and_change)
        assert "late.txt" in (refused(lambda: _register(model, source)) or "")
    assert not model.stages()
    _register(model, source)
    assert "late.txt" in _files(root / ".models/demand/v1.0.0")


@pytest.mark.parametrize("tampering", ["changed", "added", "missing", "manifest", "no manifest"])
@pytest.mark.parametrize("address", ["models:/demand/1", "mlflow-artifacts:/.models/demand/v1.0.0"])
def test_copy__of_a_version_that_was_tampered_with__is_refused(
    model: Model, root: Path, tampering: str, address: str
) -> None:
    _register(model, _logged(root, "run1"))
    folder = root / ".models/demand/v1.0.0"
    if tampering == "changed":
        (folder / "data/model.bin").write_bytes(b"evil" * 1000)
    elif tampering == "added":
        (folder / "data/extra").touch()
    elif tampering == "missing":
        (folder / "MLmodel").unlink()
    elif tampering == "manifest":
        (folder / "manifest.json").write_text("{}")
    else:
        (folder / "manifest.json").unlink()
    name = {"changed": "data/model.bin", "added": "data/extra", "missing": "MLmodel"}
    other = Model(model.store)
    assert name.get(tampering, "manifest.json") in (refused(lambda: _register(other, address)) or "")
    assert not other.stages()


def test_copy__by_the_folders_address__records_the_origin(model: Model, root: Path) -> None:
    _register(model, _logged(root, "run1"))
    other = Model(model.store)
    version = _register(other, "mlflow-artifacts:/.models/demand/v1.0.0")
    assert other.store.get_model_version(other.name, version).tags["copied_from"] == "models:/demand/1"
    for nowhere in ("demand/v9.0.0", "demand", "demand/v1.0.0/data", "nobody/v1.0.0"):
        with pytest.raises(MlflowException, match="no registered version") as refusal:
            _register(other, f"mlflow-artifacts:/.models/{nowhere}")
        assert refusal.value.get_http_status_code() == 404


@pytest.mark.parametrize("moment", ["copy", "metadata", "manifest", "insert"])
def test_register__that_is_killed__leaves_no_version_and_can_be_repeated(
    model: Model, root: Path, moment: str
) -> None:
    source = _logged(root, "run1")
    points: dict[str, tuple[type | Any, str]] = {
        "copy": (folders.RepositoryFolder, "_upload"),
        "metadata": (folders.RepositoryFolder, "write"),
        "manifest": (manifest, "write"),
        "insert": (records, "complete_claim"),
    }
    owner, name = points[moment]

    def killed() -> None:
        setattr(owner, name, lambda *_, **__: os._exit(9))
        SqlAlchemyStore._engine_map.clear()
        _register(Model(LifecycleStore(uri), "demand"), source, semantic_version="v3.0.0")

    uri = model.store.db_uri
    worker = multiprocessing.get_context("fork").Process(target=killed)
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == 9
    assert not model.stages()
    version = _register(model, source, semantic_version="v3.0.0")
    assert model.store.get_model_version("demand", version).tags["semantic_version"] == "v3.0.0"
    model.move(version, "Production")
    assert set(model.stages()) == {1}


def test_register__a_number_being_registered_elsewhere__is_refused(model: Model, root: Path) -> None:
    source = _logged(root, "run1")
    inside: list[str | None] = []
    write = manifest.write

    def meanwhile(*arguments: Any) -> Any:
        if not inside:
            inside.append(None)
            inside[0] = refused(lambda: _register(model, source, semantic_version="v3.0.0"))
            _register(model, source)
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "write", meanwhile)
        _register(model, source, semantic_version="v3.0.0")
    assert "right now" in (inside[0] or "")
    assert "v3.0.1" in (inside[0] or "")
    numbers = {
        model.store.get_model_version("demand", version).tags["semantic_version"] for version in (1, 2)
    }
    assert numbers == {"v3.0.0", "v3.0.1"}


def _logged(root: Path, run: str, signature: str | None = LOAD) -> str:
    """A model in a run's artifacts; returns its address."""
    folder = root / "1" / run / "artifacts/model"
    (folder / "data").mkdir(parents=True)
    described: dict[str, Any] = {"flavors": {"lightgbm": {}, "python_function": {}}, "run_id": run}
    if signature:
        described["signature"] = {"inputs": signature, "outputs": None, "params": None}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "data/model.bin").write_bytes(run.encode() * 1000)
    return f"mlflow-artifacts:/1/{run}/artifacts/model"


def _register(model: Model, source: str, **tags: str) -> int:
    tag_list = [ModelVersionTag(key, value) for key, value in tags.items()]
    return int(model.store.create_model_version(model.name, source, tags=tag_list).version)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fail(*_: object, **__: object) -> None:
    raise OSError("disk full")

"""`ai-hub registry export | import`: a version goes from one server to another, and from tenant to tenant."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LinearRegression
from support import registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from ai_hub.errors import AiHubError, ConflictError
from ai_hub.registry import bundle, transfer
from ai_hub.registry.versions import REQUEST_TAG, find_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    _Run = Callable[..., tuple[int, str, str]]

LOAD = np.arange(40.0).reshape(-1, 1)


@pytest.fixture(scope="module")
def prod(
    stack: dict[str, str], sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    """A second server, with a database of its own; the first one is the stack's."""
    folder = tmp_path_factory.mktemp("prod")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    with registry_servers.running(f"sqlite:///{folder}/mlflow.db", stack, folder) as server:
        yield server


@pytest.fixture
def acme(stack: dict[str, str]) -> Tenant:
    """A tenant of the stack's server, which the settings name."""
    return new_tenant(stack["MLFLOW_TRACKING_URI"])


@pytest.fixture
def other(prod: registry_servers.Server, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """A tenant of the second server; the settings name that one only while it is made."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", prod.url)
        return new_tenant(prod.url)


def _trained(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> LinearRegression:
    """Register a model as the stock client does, with parameters, metrics, data set and commit."""
    monkeypatch.setenv("MLFLOW_WORKSPACE", acme.name)
    mlflow.set_tracking_uri(acme.url)
    mlflow.set_registry_uri(acme.url)
    model = LinearRegression().fit(LOAD, LOAD[:, 0] * 2 + 1)
    with mlflow.start_run(experiment_id=acme.experiment) as run:
        mlflow.log_params({"feature_service": "forecast_basic", "kind": "linear"})
        mlflow.log_metrics({"mae": 1.5, "r2": float("nan")})
        mlflow.set_tags({"mlflow.source.git.commit": "0123abc", "mlflow.user": "ada", "window": "2025"})
        mlflow.set_tag(REQUEST_TAG, "of this installation")
        mlflow.log_input(mlflow.data.from_numpy(LOAD, name="meters"), context="training")
        mlflow.sklearn.log_model(
            model, name="model", input_example=LOAD[:2], registered_model_name=MODEL, pip_requirements=[]
        )
        acme.client.set_model_version_tag(MODEL, "1", "reviewed", "yes")
        acme.client.set_model_version_tag(MODEL, "1", REQUEST_TAG, "of this installation")
        acme.client.log_metric(run.info.run_id, "rmse", 2.5)
    return model


def _files(tenant: Tenant, version: int, folder: Path, model: str = MODEL) -> dict[str, bytes]:
    root = registry.download_version(find_version(tenant.name, model, version), folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def _runs(tenant: Tenant) -> list[Any]:
    """Runs of imports that are there."""
    with registry.tenant_scope(tenant.name):
        found = tenant.client.get_experiment_by_name("uploads")
        return list(tenant.client.search_runs([found.experiment_id])) if found else []


def _check_version(other: Tenant, sent: dict[str, bytes], arrived: dict[str, bytes]) -> dict[str, Any]:
    """It is as it was, in Staging; returns what it says about its origin."""
    own = {"manifest.json", "metadata.json", "metrics.json"}
    assert {path: sent[path] for path in sent.keys() - own} == {
        path: arrived[path] for path in arrived.keys() - own
    }
    # MLflow keeps a logged model's NaN as 0
    assert json.loads(sent["metrics.json"]) == {"mae": 1.5, "r2": None}
    assert json.loads(arrived["metrics.json"]) == {"mae": 1.5, "rmse": 2.5}
    metadata, first = json.loads(arrived["metadata.json"]), json.loads(sent["metadata.json"])
    for name in ("author", "feature_service", "signature", "framework", "hyperparameters", "model_uuid"):
        assert metadata[name] == first[name]
    version = find_version(other.name, MODEL, 1)
    assert (version.stage, version.aliases, version.tags["reviewed"]) == ("Staging", ("staging",), "yes")
    assert REQUEST_TAG not in version.tags
    return dict(json.loads(version.tags["imported_from"]))


def _check_run(other: Tenant) -> None:
    """Its run has what the one it stands for had."""
    (run,) = _runs(other)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"mae": 1.5, "rmse": 2.5})
    assert run.data.params == {"feature_service": "forecast_basic", "kind": "linear"}
    assert (run.data.tags["mlflow.source.git.commit"], run.data.tags["window"]) == ("0123abc", "2025")
    assert REQUEST_TAG not in run.data.tags
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.tags[0].value) == ("meters", "training")


def _check_trail(other: Tenant, origin: dict[str, Any], end: str) -> None:
    """The audit trail says where it came from, with the trail it had there."""
    (row,) = registry.history(other.name, MODEL)
    assert (row.from_stage, row.to_stage) == (None, "Staging")
    reason = str(row.reason)
    assert reason.startswith(
        f"Imported, as its export says: {MODEL} v1.0.0 of {origin['tenant']} at {origin['server']}, "
        "exported by "
    )
    assert reason.endswith(end)
    imported = row.evidence["imported"]
    assert imported["origin"] == origin
    assert [(step["to_stage"], step["reason"]) for step in imported["transitions"]] == [
        ("Production", "lower error"), ("Staging", None),
    ]  # fmt: skip
    assert (imported["lineage"]["author"], imported["lineage"]["code_version"]) == ("ada", "0123abc")
    assert imported["lineage"]["datasets"][0]["name"] == "meters"


def test_version_of_dev__comes_to_prod_with_all_that_is_known_about_it(
    acme: Tenant,
    other: Tenant,
    tmp_path: Path,
    run: _Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = mlflow.get_tracking_uri()
    model = _trained(acme, monkeypatch)
    digest = find_version(acme.name, MODEL, 1).manifest_sha256
    registry.promote(acme.name, MODEL, 1, reason="lower error")
    archive = tmp_path / "demand.zip"
    capsys.readouterr()
    status, out, err = run("registry", "export", "-t", acme.name, "-m", MODEL, str(archive))
    assert (status, err) == (0, "")
    assert f"{MODEL} 1 (v1.0.0) of {acme.name}" in out
    sha256 = out.split("sha256 ")[1].strip()
    sent = _files(acme, 1, tmp_path / "sent")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", other.url)
    command = ("registry", "import", str(archive), "--tenant", other.name, "--sha256", sha256)
    status, out, err = run(*command, "--reason", "release 7")
    assert (status, err) == (0, "")
    assert out.startswith(
        f"{MODEL} 1 (v1.0.0) of {other.name} is in Staging. It was {MODEL} v1.0.0 of {acme.name} at"
    )

    arrived = _files(other, 1, tmp_path / "arrived")
    origin = _check_version(other, sent, arrived)
    assert (origin["server"], origin["tenant"], origin["version"]) == (acme.url, acme.name, 1)
    assert origin["manifest_sha256"] == digest
    _check_run(other)
    _check_trail(other, origin, ". release 7")
    with pytest.raises(MlflowException, match="cannot change"), registry.tenant_scope(other.name):
        other.client.set_model_version_tag(MODEL, "1", "imported_from", "{}")

    # again is nothing
    status, out, err = run(*command)
    assert (status, err) == (0, "")
    assert out.endswith("is this version already, in Staging. Nothing was imported.\n")
    assert other.stages() == {1: "Staging"}
    assert len(_runs(other)) == 1

    # the stock client loads it, and the rules hold
    mlflow.set_tracking_uri(other.url)
    mlflow.set_registry_uri(other.url)
    monkeypatch.setenv("MLFLOW_WORKSPACE", other.name)
    loaded = mlflow.sklearn.load_model(f"models:/{MODEL}@staging")
    assert loaded.predict(LOAD).tolist() == model.predict(LOAD).tolist()
    assert other.stage(1, "Production").status_code == 200
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri(None)


def test_version_of_one_tenant__comes_to_another__under_a_name_and_number_of_its_own(
    acme: Tenant, stack: dict[str, str], tmp_path: Path
) -> None:
    version = acme.register(tmp_path / "model")
    transfer.export_version(acme.name, MODEL, version, tmp_path / "export")
    grid = new_tenant(stack["MLFLOW_TRACKING_URI"])
    grid.register(tmp_path / "model", b"others")
    with pytest.raises(ConflictError, match=r"v1.0.0 is version 1 of this model. Register as v1.0.1"):
        transfer.import_version(tmp_path / "export", grid.name)
    assert (grid.stages(), _runs(grid)) == ({1: "Staging"}, [])
    done = transfer.import_version(tmp_path / "export", grid.name, version="next")
    assert (done.version, done.semantic_version, done.stage) == (2, "v1.0.1", "Staging")
    again = transfer.import_version(tmp_path / "export", grid.name, version="v9.0.0")
    assert (again.version, again.semantic_version, again.is_new) == (2, "v1.0.1", False)
    done = transfer.import_version(tmp_path / "export", grid.name, model="heat", version="v2.0.0")
    assert (done.model, done.version, done.semantic_version) == ("heat", 1, "v2.0.0")
    with pytest.raises(ConflictError, match="has this very version"):
        transfer.import_version(tmp_path / "export", acme.name)
    # what was imported can go on, and both its trails with it
    transfer.export_version(grid.name, "heat", 1, tmp_path / "onwards.zip")
    with bundle.opened(tmp_path / "onwards.zip") as found:
        (row,) = found.version.transitions
        assert row["evidence"]["imported"]["origin"]["tenant"] == acme.name


def test_import__refused__leaves_nothing(
    acme: Tenant, stack: dict[str, str], tmp_path: Path, run: _Run
) -> None:
    acme.register(tmp_path / "model")
    command = ("registry", "export", str(tmp_path / "export"), "-t", acme.name, "-m", MODEL)
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert f"No version of {MODEL}" in err or "no version 'production'" in err
    assert run(*command, "--version", "latest")[0] == 0
    status, _, err = run(*command, "--version", "latest")
    assert (status, "exists" in err) == (1, True)
    grid = new_tenant(stack["MLFLOW_TRACKING_URI"])
    (tmp_path / "export/files/data/model.bin").write_bytes(b"weighty")
    status, out, err = run("registry", "import", str(tmp_path / "export"), "-t", grid.name, "-m", "heat")
    assert (status, out) == (2, "")
    assert "files/data/model.bin was changed" in err
    with registry.tenant_scope(grid.name):
        assert [model.name for model in grid.client.search_registered_models()] == [MODEL]
    assert _runs(grid) == []
    status, _, err = run("registry", "import", str(tmp_path / "export.zip"), "-t", "nobody-at-all")
    assert status == 2


def test_imports__run_with_other_files__is_refused_by_the_server(
    acme: Tenant, stack: dict[str, str], tmp_path: Path
) -> None:
    acme.register(tmp_path / "model")
    transfer.export_version(acme.name, MODEL, 1, tmp_path / "export")
    grid = new_tenant(stack["MLFLOW_TRACKING_URI"])
    with bundle.opened(tmp_path / "export") as found:
        wish = {"exported": found.version.model_dump(mode="json", by_alias=True), "semantic_version": None}
    for folder, content, status, text in (
        ("changed", b"WEIGHTS", 409, "was changed"),
        ("longer", b"weights", 400, "are not those of"),
    ):
        if folder == "longer":
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "more").write_bytes(b"x")
        run_id, _ = grid.log_model(tmp_path / folder, content)
        answer = grid.call("POST", f"/ai-hub/api/models/{MODEL}/imports", json={**wish, "run_id": run_id})
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert grid.stages() == {}
    wish["exported"]["origin"]["manifest_sha256"] = "../.."
    answer = grid.call("POST", f"/ai-hub/api/models/{MODEL}/imports", json={**wish, "run_id": run_id})
    assert answer.status_code == 422


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_import__server_killed__leaves_one_version_or_none__and_can_be_repeated(
    acme: Tenant,
    other: Tenant,
    prod: registry_servers.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kills: int,
) -> None:
    folder = tmp_path / "model/many"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(bytes(5000))
    acme.register(tmp_path / "model")
    transfer.export_version(acme.name, MODEL, 1, tmp_path / "export.zip")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other.url)

    def import_() -> None:
        with suppress(AiHubError):  # what its user is told
            transfer.import_version(tmp_path / "export.zip", other.name, model=model)

    model = "measured"
    begun = time.monotonic()
    import_()
    seconds = time.monotonic() - begun
    for kill in range(kills):
        model = f"demand-{kill}"
        client = threading.Thread(target=import_)
        client.start()
        time.sleep(seconds * (kill + 1) / (kills + 1))
        prod.kill()
        client.join()
        prod.start()
        done = transfer.import_version(tmp_path / "export.zip", other.name, model=model)
        assert (done.version, done.semantic_version) == (1, "v1.0.0")
        assert len(registry.list_versions(other.name, model)) == 1
        registry.download_version(find_version(other.name, model, 1), tmp_path / model)

"""What a version can be registered from; nothing done to that later matters; its files need no MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import lightgbm
import mlflow
import numpy as np
import pytest
from mlflow.utils.workspace_context import WorkspaceContext
from sklearn.linear_model import LinearRegression
from support import forked, registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from mlflow_plugins.artifacts.s3 import s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Stack

BUCKET = "ml-models"
LOAD = np.arange(40.0).reshape(-1, 1)
ALONE = """
import sys
sys.modules["mlflow"] = sys.modules["mlflow_plugins"] = None  # importing them fails
import joblib, lightgbm, numpy
load = numpy.arange(40.0).reshape(-1, 1)
booster = lightgbm.Booster(model_file=sys.argv[1] + "/model.lgb").predict(load)
linear = joblib.load(sys.argv[2] + "/model.pkl").predict(load)
numpy.save(sys.argv[3], numpy.stack([booster, linear]))
"""


@pytest.fixture(scope="module")
def running(
    servers: Stack, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    folder = tmp_path_factory.mktemp("origins")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    with registry_servers.running(f"sqlite:///{folder}/mlflow.db", servers.start("s3"), folder) as server:
        yield server


@pytest.fixture
def server(
    running: registry_servers.Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[registry_servers.Server]:
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.url)
    mlflow.set_tracking_uri(running.url)
    mlflow.set_registry_uri(running.url)
    yield running
    mlflow.set_tracking_uri(before)


def test_versions__outlive_whatever_they_came_from__and_need_no_mlflow(
    server: registry_servers.Server, tmp_path: Path
) -> None:
    acme = new_tenant(server.url)
    booster = lightgbm.train(
        {"verbosity": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(LOAD, LOAD[:, 0]), num_boost_round=5
    )
    linear = LinearRegression().fit(LOAD, 2 * LOAD[:, 0])
    with WorkspaceContext(acme.name):
        run_id, model_id, location = _log(acme, booster, linear, tmp_path / "saved")
        client = acme.client
        versions = [
            mlflow.register_model(f"runs:/{run_id}/linear", MODEL),
            client.create_model_version(MODEL, f"runs:/{run_id}/linear", run_id),
            client.create_model_version(MODEL, location, run_id),
            mlflow.register_model(f"models:/{model_id}", MODEL),
            client.create_model_version(MODEL, f"models:/{model_id}", model_id=model_id),
        ]
        copied = client.copy_model_version(f"models:/{MODEL}/4", "demand-promoted")
        assert (copied.current_stage, copied.tags["copied_from"]) == ("Staging", f"models:/{MODEL}/4")
        assert [int(version.version) for version in versions] == [1, 2, 3, 4, 5]
        assert {version.run_id for version in versions} == {run_id}
        _clean_up(acme, server, run_id, model_id, location, tmp_path)
        assert not _keys(f"{acme.name}/.runs/")

        expected = {"linear": linear.predict(LOAD), "booster": booster.predict(LOAD)}
        for number in (1, 2, 3, 4, 5):
            assert acme.stage(number, "Production").status_code == 200
        for number, kind in ((1, "linear"), (3, "linear"), (5, "booster")):
            loaded = mlflow.pyfunc.load_model(f"models:/{MODEL}/{number}")
            np.testing.assert_allclose(loaded.predict(LOAD), expected[kind])
        folders = [
            mlflow.artifacts.download_artifacts(address, dst_path=str(tmp_path / name))
            for name, address in (("booster", "models:/demand-promoted/1"), ("linear", f"models:/{MODEL}/1"))
        ]
    subprocess.run([sys.executable, "-c", ALONE, *folders, str(tmp_path / "alone.npy")], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "alone.npy"), [expected["booster"], expected["linear"]])


def _log(acme: Tenant, booster: Any, linear: Any, folder: Path) -> tuple[str, str, str]:
    """A run with a logged model and one among its artifacts; returns run, model, and the latter's address."""
    requirements = ["lightgbm", "scikit-learn"]
    mlflow.sklearn.save_model(
        linear, str(folder), serialization_format="cloudpickle", pip_requirements=requirements
    )
    with mlflow.start_run(experiment_id=acme.experiment) as run:
        logged = mlflow.lightgbm.log_model(booster, name="booster", pip_requirements=requirements)
        mlflow.log_artifacts(str(folder), "linear")
    return run.info.run_id, logged.model_id, f"{run.info.artifact_uri}/linear"


def _clean_up(
    acme: Tenant, server: registry_servers.Server, run_id: str, model_id: str, location: str, folder: Path
) -> None:
    """Everything MLflow has for that."""
    path = location.partition("mlflow-artifacts:/")[2]
    assert acme.artifact("DELETE", path.rpartition("/")[0]).status_code == 200
    acme.client.delete_logged_model(model_id)
    acme.client.delete_run(run_id)
    acme.client.delete_experiment(acme.experiment)
    # said outright, because processes may be forked from one that was started among other servers
    gc = ["mlflow", "gc", "--workspace", acme.name, "--tracking-uri", server.url]
    gc += ["--backend-store-uri", server.settings["_MLFLOW_SERVER_FILE_STORE"]]
    done = forked.run(gc, os.environ | {"MLFLOW_TRACKING_URI": server.url}, folder)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    assert f"Run with ID {run_id} has been permanently deleted" in printed
    assert f"Logged model with ID {model_id} has been permanently deleted" in printed
    assert f"Experiment with ID {acme.experiment} has been permanently deleted" in printed


def _keys(prefix: str) -> list[str]:
    found = s3_client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in found]


def test_versions__of_the_same_number_in_similar_models__have_nothing_in_common(
    server: registry_servers.Server, tmp_path: Path
) -> None:
    acme = new_tenant(server.url)
    run_id, source = acme.log_model(tmp_path / "model")
    similar = (MODEL, f"{MODEL}-x", MODEL[:-1])
    with registry.tenant_scope(acme.name):
        for name in similar:
            if name != MODEL:
                acme.client.create_registered_model(name)
            for number in ("v1.0.0", "v1.0.1", "v1.0.10"):
                acme.client.create_model_version(name, source, run_id, tags={"semantic_version": number})
    before = set(_keys(f"{acme.name}/"))
    answer = acme.call("DELETE", f"/ai-hub/api/models/{MODEL}/versions/2", params={"force": "true"})
    deleted = answer.json()["files_deleted"]
    assert len(deleted) == 5
    assert before - set(_keys(f"{acme.name}/")) == set(deleted)
    assert all(key.startswith(f"{acme.name}/{MODEL}/v1.0.1/") for key in deleted)

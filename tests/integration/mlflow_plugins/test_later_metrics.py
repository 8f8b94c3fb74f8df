"""Metrics that are logged after the registration, as MLflow's autolog does, count at every door."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import mlflow
import pytest
import requests
from support import registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Stack

    _Run = Callable[..., tuple[int, str, str]]

POLICY = """
defaults: {required_metrics: {metrics: {mae: {max: 2}}}}
"""
#: What a person writes who follows MLflow's tutorials, for each library; `fitted` predicts from `asked`.
TRAINING = {
    "sklearn": """
from sklearn.linear_model import LinearRegression
fitted, asked = LinearRegression().fit(hours, load), late
""",
    "lightgbm": """
import lightgbm
data = lightgbm.Dataset(hours, load)
valid = lightgbm.Dataset(late, load[150:], reference=data)
fitted, asked = lightgbm.train({"metric": "l1", "verbose": -1}, data, 3, valid_sets=[valid]), late
""",
    "xgboost": """
import xgboost
data, asked = xgboost.DMatrix(hours, load), xgboost.DMatrix(late, load[150:])
fitted = xgboost.train({"eval_metric": "mae"}, data, 3, evals=[(asked, "late")], verbose_eval=False)
""",
}
AUTOLOG = """
import sys, mlflow, numpy
library, training = sys.argv[1:]
getattr(mlflow, library).autolog(registered_model_name="demand-forecast")
hours = numpy.arange(200.0).reshape(-1, 1)
load, late = hours[:, 0] % 24, hours[150:]
with mlflow.start_run() as run:
    exec(training)
    mlflow.log_metric("mae", float(abs(fitted.predict(asked) - load[150:]).mean()))
print("RUN " + run.info.run_id)
"""


@pytest.fixture
def acme(
    servers: Stack, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tenant]:
    """A tenant of a server with `POLICY`, which the test may change."""
    shutil.copy(sqlite_template, tmp_path / "mlflow.db")
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    settings = {"PROMOTION_POLICY_PATH": str(policy)}
    before = mlflow.get_tracking_uri()
    with registry_servers.running(
        f"sqlite:///{tmp_path / 'mlflow.db'}", servers.start("s3"), tmp_path, settings=settings
    ) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        mlflow.set_tracking_uri(server.url)
        yield new_tenant(server.url)
    mlflow.set_tracking_uri(before)


def page(tenant: Tenant, model: str) -> str:
    """Our own page of a model."""
    answer = requests.get(f"{tenant.url}/lifecycle/{tenant.name}/{model}", timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.mark.long
@pytest.mark.parametrize("library", TRAINING)
def test_metrics__of_autolog__are_what_gates_page_and_trail_have(
    acme: Tenant, tmp_path: Path, run: _Run, library: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AUTOLOG, library, TRAINING[library]],
        env=os.environ | {"MLFLOW_WORKSPACE": acme.name, "MLFLOW_EXPERIMENT_ID": acme.experiment},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    with registry.tenant_scope(acme.name):
        recorded = acme.client.get_run(done.stdout.partition("RUN ")[2].strip()).data.metrics
        card = json.loads(acme.client.get_model_version(MODEL, "1").tags["ai_hub.card"])["metrics"]
    assert "mae" in recorded.keys() - card.keys()
    # it registers while it trains: what the card has of a metric is of an earlier round
    assert library != "xgboost" or card["late-mae"] != recorded["late-mae"]
    (tmp_path / "policy.yaml").write_text(
        json.dumps({"defaults": {"required_metrics": {"metrics": sorted(recorded)}}})
    )
    status, told, _ = run("gates", MODEL, "--tenant", acme.name, "--json")
    assert (status, json.loads(told)["passed"]) == (0, True), told
    assert f"{recorded['mae']:.6g}" in page(acme, MODEL)
    registry.promote(acme.name, MODEL, 1, reason="measured after the registration")
    (entry, *_) = registry.history(acme.name, MODEL)
    assert entry.evidence["gates"]["required_metrics"]["metrics"] == pytest.approx(recorded)


def test_metric__missing__is_refused_with_the_run_and_counts_once_it_is_there(
    acme: Tenant, tmp_path: Path, run: _Run
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY.replace("mae", "rmse"))
    version = acme.register(tmp_path / "model")
    with registry.tenant_scope(acme.name):
        run_id = acme.client.get_model_version(MODEL, str(version)).run_id
        answer = acme.stage(version, "Production")
        assert answer.status_code == 409
        told = f"Metric rmse of version 1 (v1.0.0) was not recorded; it has mae. Log it to run {run_id}; it"
        assert told in answer.json()["message"]
        assert told in run("gates", MODEL, "--tenant", acme.name)[1].replace("\n", " ")
        acme.client.log_metric(run_id, "rmse", float("inf"))
        answer = acme.stage(version, "Production")
        assert "Metric rmse of version 1 (v1.0.0) is not a finite number." in answer.json()["message"]
        acme.client.log_metric(run_id, "rmse", 2.5)
        answer = acme.stage(version, "Production")
        assert "Metric rmse is 2.5, above the most allowed, 2." in answer.json()["message"]
        # only what the card lacks may still change
        acme.client.log_metric(run_id, "rmse", 1.5)
        acme.client.log_metric(run_id, "mae", 0.1)
    assert "<td>0.1" not in page(acme, MODEL)
    assert acme.stage(version, "Production").status_code == 200
    (entry, *_) = registry.history(acme.name, MODEL)
    assert entry.evidence["gates"]["required_metrics"]["metrics"] == {"rmse": 1.5}


@pytest.mark.parametrize("by_run", [False, pytest.param(True, marks=pytest.mark.long)])
def test_metrics__of_a_run_with_several_models__are_those_of_the_version(
    acme: Tenant, tmp_path: Path, by_run: bool
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY.replace("mae", "rmse"))
    with registry.tenant_scope(acme.name):
        run_id = acme.client.create_run(acme.experiment).info.run_id
        models = [
            acme.client.create_logged_model(acme.experiment, name=name, source_run_id=run_id)
            for name in ("first", "second")
        ]
        acme.client.log_outputs(
            run_id, [mlflow.entities.LoggedModelOutput(model.model_id, step=0) for model in models]
        )
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {lightgbm: {}}\n")
        for model in models:
            acme.client.log_model_artifacts(model.model_id, str(folder))
            acme.client.finalize_logged_model(model.model_id, "READY")
        for model in models:
            if by_run:
                acme.client.create_model_version(MODEL, f"runs:/{run_id}/{model.name}", run_id)
            else:
                acme.client.create_model_version(MODEL, f"models:/{model.model_id}", model_id=model.model_id)
        acme.client.log_metric(run_id, "rmse", 1.0, model_id=models[0].model_id)
    # the run has the metric, but it is the first model's
    assert acme.stage(2, "Production").status_code == 409
    assert acme.stage(1, "Production").status_code == 200

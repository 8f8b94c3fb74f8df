"""Gates on a version older than this registry: it has no folder of its own, so its run speaks for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import mlflow
import pytest
import yaml
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import Model, refused

from mlflow_plugins.artifacts import destination

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

COLUMNS = json.dumps([{"name": "lag_1h", "type": "double"}])


@pytest.fixture
def client(sqlite_store: LifecycleStore) -> Iterator[mlflow.MlflowClient]:
    """Runs in the same database."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(sqlite_store.db_uri)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def model(
    sqlite_store: LifecycleStore,
    client: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Model:
    """Two versions of stock MLflow's, in Production and in Staging, whose run says mae 2 and mae 1."""
    root = tmp_path / "artifacts"
    monkeypatch.setenv(destination.SERVE_ARTIFACTS, "true")
    monkeypatch.setenv(destination.ARTIFACTS_DESTINATION, str(root))
    made = Model(sqlite_store)
    stock = SqlAlchemyStore(sqlite_store.db_uri)
    for mae, stage in ((2.0, "Production"), (1.0, "Staging")):
        run = client.create_run("0", tags={"mlflow.user": "ada", "feature_service": "forecast_basic"}).info
        client.log_metric(run.run_id, "mae", mae)
        folder = root / run.run_id / "model"
        folder.mkdir(parents=True)
        signature = {"inputs": COLUMNS, "outputs": COLUMNS}
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"lightgbm": {}}, "signature": signature}))
        source = f"mlflow-artifacts:/{run.run_id}/model"
        version = stock.create_model_version(made.name, source, run.run_id).version
        stock.transition_model_version_stage(made.name, version, stage, archive_existing_versions=False)
    return made


def test_its_run_and_its_source__are_judged(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    monkeypatch.setenv("PROMOTION_POLICY_PATH", str(policy))
    policy.write_text(
        "defaults: {signature: true, approver_is_not_author: true, required_metrics: {metrics: [mae]},"
        " not_worse_than_production: {metric: mae, better: lower}, time_in_staging: true}"
    )
    found = {result.gate: result for result in model.store.gates(model.name, 2, claim="ada").results}
    assert found["manifest"].evidence == {"manifest": "none"}
    assert found["signature"].evidence == {"inputs": 1, "outputs": 1}
    assert found["required_metrics"].evidence == {"metrics": {"mae": 1.0}}
    assert found["not_worse_than_production"].evidence["worse_percent"] == -50
    assert "ada made this version" in found["approver_is_not_author"].text
    # the trail does not know when it entered Staging
    assert "Move it to Archived and back" in found["time_in_staging"].text
    policy.write_text("defaults: {manifest: {required: true}}")
    assert "has no manifest" in (refused(lambda: model.move(2, "Production")) or "")
    policy.write_text("defaults: {signature: true}")
    model.move(2, "Production")
    assert model.stages() == {1: "Archived", 2: "Production"}

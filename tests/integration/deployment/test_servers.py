from __future__ import annotations

from typing import TYPE_CHECKING

import mlflow
import requests

from ai_hub import registry

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from conftest import Containers


def status(url: str, host: str) -> int:
    return requests.get(url, headers={"Host": host}, timeout=30).status_code


def test_mlflow__serves_tenants_from_postgresql_and_s3(
    provisioned: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with provisioned.serve("mlflow") as url:
        assert status(f"{url}/api/3.0/mlflow/server-info", "mlflow:5000") == 200
        assert status(f"{url}/api/3.0/mlflow/server-info", "localhost:5000") == 200
        assert status(f"{url}/api/3.0/mlflow/server-info", "elsewhere.example") == 403

        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        registry.ensure_tenant("harbour")
        client = mlflow.MlflowClient(url, url)
        (tmp_path / "MLmodel").write_text("flavors: {}\n")
        with registry.tenant_scope("harbour"):
            run = client.create_run(client.create_experiment("loads"))
            client.log_artifact(run.info.run_id, str(tmp_path / "MLmodel"), "model")
            client.create_registered_model("load")
            client.create_model_version("load", f"runs:/{run.info.run_id}/model", run.info.run_id)
        move = registry.promote("harbour", "load", reason="first one")
        assert move.own.to_stage == "Production"
        assert registry.list_versions("harbour")[0].stage == "Production"


def test_feature_server__answers_from_the_applied_definitions(provisioned: Containers) -> None:
    applied = provisioned.run("apply")
    assert applied.returncode == 0, applied.stderr[-4000:]
    question = {
        "feature_service": "forecast_basic",
        "entities": {"tenant_id": ["nobody"], "asset_id": ["nothing"]},
    }
    with provisioned.serve("feature-server") as url:
        answer = requests.post(f"{url}/get-online-features", json=question, timeout=60)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["metadata"]["feature_names"]) == {
        *("tenant_id", "asset_id", "hour_of_day", "day_of_week", "is_weekend"),
        *("historical_avg_24h", "lag_1h", "lag_24h"),
    }

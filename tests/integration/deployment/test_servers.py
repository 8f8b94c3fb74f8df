from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import mlflow
import psycopg
import pytest
import requests

from ai_hub import registry
from ai_hub.access import api_keys
from ai_hub.access.principal import Scope
from ai_hub.db import connect
from ai_hub.errors import NotLoggedInError
from ai_hub.features.store import find_service

if TYPE_CHECKING:
    from pathlib import Path

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
        with pytest.raises(NotLoggedInError):
            registry.ensure_tenant("harbour")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", provisioned.passwords["MLFLOW_AUTH_ADMIN_PASSWORD"])
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


@pytest.fixture(scope="module")
def applied(provisioned: Containers) -> Containers:
    """The same after the service `apply`."""
    done = provisioned.run("apply")
    assert done.returncode == 0, done.stderr[-4000:]
    return provisioned


def test_feature_server__answers_and_takes_readings(applied: Containers, database: str) -> None:
    question = {
        "feature_service": "forecast_basic",
        "entities": {"tenant_id": ["nobody"], "asset_id": ["nothing"]},
    }
    pushed = {
        "tenant_id": ["harbour"],
        "asset_id": ["crane"],
        "timestamp": [datetime.now(UTC).isoformat()],
        "value": [12.5],
        "quality": ["good"],
        "ingested_at": [datetime.now(UTC).isoformat()],
    }
    with applied.serve("feature-server", TIMESCALE_DSN=database) as url:
        answer = requests.post(f"{url}/get-online-features", json=question, timeout=60)
        push = {"push_source_name": "readings", "df": pushed, "to": "online_and_offline"}
        accepted = requests.post(f"{url}/push", json=push, timeout=60)
        reading = requests.post(
            f"{url}/get-online-features",
            json={
                "features": ["latest_reading:value"],
                "entities": {"tenant_id": ["harbour"], "asset_id": ["crane"]},
            },
            timeout=60,
        )
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["metadata"]["feature_names"]) == {
        *("tenant_id", "asset_id", "hour_of_day", "day_of_week", "is_weekend"),
        *("historical_avg_24h", "lag_1h", "lag_24h"),
    }
    assert accepted.status_code == 200, accepted.text
    assert reading.json()["results"][-1]["values"] == [12.5]
    with connect(database) as connection:
        stored = connection.execute(
            "SELECT value FROM timeseries_data WHERE tenant_id = 'harbour'"
        ).fetchall()
    assert stored == [(12.5,)]


def test_mlflow__may_read_feasts_registry_and_no_more(
    applied: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAST_REGISTRY_URI", applied.environment("mlflow")["FEAST_REGISTRY_URI"])
    service = find_service("forecast_basic")
    assert service
    assert {"lag_1h", "asset_id"} <= service.columns
    server = applied.addresses["timescaledb:5432"]
    login = f"mlflow:{applied.passwords['MLFLOW_DB_PASSWORD']}"
    with psycopg.connect(f"postgresql://{login}@{server}/feast") as connection:
        for statement in ("DELETE FROM feature_services", "CREATE TABLE mine (a int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()


def test_materializer__makes_a_pass_and_publishes_it(applied: Containers, database: str) -> None:
    with applied.serve("materializer", "/metrics", TIMESCALE_DSN=database) as url:
        deadline = time.monotonic() + 60
        while 'passes_total{result="full"} 1.0' not in (
            text := requests.get(f"{url}/metrics", timeout=30).text
        ):
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
    assert (applied.folder / "materializer.log").read_text().splitlines()[-1].endswith("stopped")


def test_rest_service__answers_whoever_has_a_key(
    applied: Containers, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMESCALE_DSN", database)
    _, key = api_keys.create("containers", ["harbour"], [Scope.FEATURES_READ], created_by="test")
    # the embedded TimescaleDB has one login
    changed = {"TIMESCALE_DSN": database, "SERVICE_TIMESCALE_DSN": ""}
    with applied.serve("api", "/health/live", **changed) as url:
        sets = requests.get(f"{url}/ai/features/sets", headers={"X-API-Key": str(key)}, timeout=60)
        nobody = requests.get(f"{url}/ai/features/sets", timeout=60)
        foreign = requests.get(
            f"{url}/ai/features/exports",
            params={"tenant_id": "city-works"},
            headers={"X-API-Key": str(key)},
            timeout=60,
        )
    assert (sets.status_code, nobody.status_code, foreign.status_code) == (200, 401, 403)
    names = {"forecast_basic", "forecast_advanced", "anomaly_detection", "day_ahead"}
    assert set(sets.json()["feature_sets"]) == names


def test_login_of_the_rest_service__is_a_member_of_its_role_and_owns_nothing(applied: Containers) -> None:
    server = applied.addresses["timescaledb:5432"]
    login = f"ai_hub_api:{applied.passwords['SERVICE_DB_PASSWORD']}"
    with psycopg.connect(f"postgresql://{login}@{server}/ai_hub") as connection:
        roles = connection.execute(
            "SELECT pg_has_role('ai_hub_service', 'MEMBER'), rolsuper FROM pg_roles"
            " WHERE rolname = session_user"
        ).fetchone()
    assert roles == (True, False)

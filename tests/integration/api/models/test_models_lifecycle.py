"""Registration, look-up, promotion and deletion over HTTP, on a real MLflow and a real S3 store."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from mlflow.entities import LoggedModelOutput
from support.model_service import ACME, MLMODEL, ModelService, encoded, upload, uploads

from ai_hub import registry

if TYPE_CHECKING:
    from pathlib import Path

METADATA: dict[str, Any] = {
    "model_type": "demand_forecast",
    "framework": "own",
    "hyperparameters": {"leaves": 31, "rate": 0.1, "nested": [1, {"none": None, "text": "ÄÖÜ\u2028\0"}]},
    "training_config": {"feature_service": "forecast_basic", "seed": -1},
    "feature_names": ["b", "a"],
    "target_variable": "demand_kw",
    "tags": ["x", "", "x"],
    "description": "Line one.\nLine two: \0 'quoted' \"twice\"",
}
METRICS = {"mae": 1.7000000000000002, "r2_score": -0.0, "custom_metrics": {"bias": 1e-300, "p.95": 1e300}}


def test_a_version__goes_through_its_life(service: ModelService, model: str) -> None:
    first = service.register("rita", upload(ACME, model, version="1.2.0"))
    assert first.status_code == 201
    made = first.json()
    old = f"{ACME}:{model}:v1.2.0"
    assert (made["model_id"], made["version"], made["stage"], made["status"]) == (
        (old, "v1.2.0", "staging", "registered")
    )
    assert first.headers["location"] == f"/ai/models/{old}"
    new = service.register("rita", upload(ACME, model)).json()["model_id"]
    assert new == f"{ACME}:{model}:v1.2.1"
    assert service.promote("paul", old, "PRODUCTION").json()["current_stage"] == "production"
    moved = service.promote("paul", f"{ACME}:{model}:2", "production", "lower error").json()
    assert (moved["model_id"], moved["previous_stage"], moved["current_stage"]) == (
        (new, "staging", "production")
    )
    assert moved["message"] == f"{model} v1.2.1: Staging → Production. v1.2.0 was archived."
    refused = service.promote("paul", new, "staging")
    assert refused.status_code == 409
    assert "Production → Staging is not allowed. Move it to Archived" in refused.json()["message"]
    assert service.promote("paul", old, "production", "roll back").json()["previous_stage"] == "archived"
    assert service.promote("rita", new, "staging").json()["current_stage"] == "staging"
    assert service.promote("rita", new, "archived").json()["previous_stage"] == "staging"
    kept = service.call("dora", "DELETE", f"/{old}")
    assert kept.status_code == 409
    assert "only archived versions can be deleted" in kept.json()["message"]
    gone = service.call("dora", "DELETE", f"/{new}").json()
    assert (gone["model_id"], gone["status"]) == (new, "deleted")
    assert f"{ACME}/{model}/v1.2.1/data/model.lgb" in gone["files_deleted"]
    assert service.call("dora", "DELETE", f"/{old}", params={"force": "true"}).status_code == 200
    assert service.call("vera", "GET", f"/{old}").status_code == 404
    trail = [(row.to_stage, row.actor, row.reason) for row in reversed(registry.history(ACME, model))]
    assert trail[0] == ("Staging", "rita", None)
    assert trail[2] == ("Production", "paul", "it is better")
    assert trail[4] == ("Production", "paul", "lower error")
    assert [row[1] for row in trail[-2:]] == ["dora", "dora"]


def test_get__returns_what_was_given(service: ModelService, model: str, tmp_path: Path) -> None:
    made = service.register("rita", upload(ACME, model, metadata=METADATA, metrics=METRICS))
    assert made.status_code == 201, made.text
    model_id = made.json()["model_id"]
    found = service.call("vera", "GET", f"/{model_id}").json()
    assert found["metadata"] == METADATA
    given = {name: value for name, value in found["metrics"].items() if value is not None}
    assert given == METRICS
    assert (found["model_type"], found["uploaded_at"]) == ("demand_forecast", made.json()["uploaded_at"])
    version = registry.find_version(ACME, model, 1)
    (run,) = uploads(service, ACME, model)
    with registry.tenant_scope(ACME):
        service.client().delete_run(run.info.run_id)
    assert service.call("vera", "GET", f"/{model_id}").json() == found
    folder = registry.download_version(version, tmp_path / "files")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["given"], metadata["author"], metadata["feature_service"]) == (
        (METADATA, "rita", "forecast_basic")
    )
    flat = {"mae": METRICS["mae"], "r2_score": -0.0, "bias": 1e-300, "p.95": 1e300}
    assert json.loads((folder / "metrics.json").read_text()) == flat == dict(run.data.metrics)
    assert found["model_size_bytes"] == sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file()
    )
    assert (run.info.status, run.data.tags["mlflow.user"]) == ("FINISHED", "rita")


def test_register__of_a_run_or_a_logged_model(service: ModelService, model: str, tmp_path: Path) -> None:
    for path, content in (("MLmodel", json.dumps(MLMODEL)), ("model.lgb", "tree")):
        (tmp_path / path).write_text(content)
    with registry.tenant_scope(ACME):
        client = service.client()
        experiment = client.create_experiment(f"of-{model}")
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "mae", 3.0, step=7)
        client.log_metric(run, "drift", 0.5)
        client.log_param(run, "leaves", "31")
        client.log_artifacts(run, str(tmp_path), "files")
        logged = client.create_logged_model(experiment, name="mine", source_run_id=run)
        client.log_model_artifacts(logged.model_id, str(tmp_path))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    body = upload(ACME, model, artifact={"type": "run", "run_id": run, "path": "files"})
    first = _found(service, body)
    assert first["metrics"]["mae"] == 3
    assert first["metrics"]["custom_metrics"] == {"drift": 0.5}
    assert first["metadata"]["hyperparameters"] == {"leaves": "31"}
    assert (first["metadata"]["framework"], first["metadata"]["feature_names"]) == ("lightgbm", ["lag_1h"])
    given = _found(service, {**body, "metrics": {"mae": 2.0}})
    assert (given["metrics"]["mae"], given["metrics"]["custom_metrics"]) == (2, {})
    with registry.tenant_scope(ACME):
        assert client.get_run(run).data.metrics == {"mae": 2.0, "drift": 0.5}
    by_name = _found(service, {**body, "artifact": {"type": "run", "run_id": run, "path": "mine"}})
    by_id = _found(service, {**body, "artifact": {"type": "logged_model", "model_id": logged.model_id}})
    assert (by_name["version"], by_id["version"]) == ("v1.0.2", "v1.0.3")
    assert by_name["metadata"]["framework"] == by_id["metadata"]["framework"] == "lightgbm"
    nothing = service.register("rita", {**body, "artifact": {"type": "run", "run_id": run, "path": "other"}})
    assert (nothing.status_code, nothing.json()["hint"]) == (404, "It has: files, mine.")


def test_get__of_a_version_that_mlflow_registered(service: ModelService, model: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {lightgbm: {}}")
    with registry.tenant_scope(ACME):
        client = service.client()
        run = client.create_run(client.create_experiment(f"of-{model}"))
        client.log_metric(run.info.run_id, "rmse", 2.5)
        client.log_artifacts(run.info.run_id, str(tmp_path), "model")
        client.create_registered_model(model)
        client.create_model_version(
            model,
            f"{run.info.artifact_uri}/model",
            run.info.run_id,
            description="by hand",
            tags={"ai_hub.metadata": '{"tags": 3, "target_variable": "kw", "x": NaN}', "kind": "weekly"},
        )
    found = service.call("vera", "GET", f"/{ACME}:{model}:1").json()
    assert (found["model_id"], found["model_type"]) == (f"{ACME}:{model}:v1.0.0", "weekly")
    assert (found["metadata"]["framework"], found["metadata"]["description"]) == ("lightgbm", "by hand")
    assert found["metadata"]["tags"] == []
    assert found["metrics"]["rmse"] == 2.5


def test_register__into_production__asks_the_gates(service: ModelService) -> None:
    body = upload(ACME, "guarded", stage="Production", metrics={"mae": 2.5})
    made = service.register("olga", body)
    assert (made.status_code, made.json()["stage"]) == (201, "staging")
    assert "stays in staging instead of production" in made.json()["message"]
    assert "olga made this version" in made.json()["message"]
    assert "Metric mae is 2.5, above the most allowed" in made.json()["message"]
    assert service.promote("olga", made.json()["model_id"], "production").status_code == 409
    good = service.register("rita", {**body, "stage": "staging", "metrics": {"mae": 1.5}}).json()
    assert service.promote("paul", good["model_id"], "production").status_code == 200
    archived = service.register("rita", {**body, "stage": "archived"}).json()
    assert archived["stage"] == "archived"


def test_register__of_one_version_at_once__one_wins_and_nothing_is_left(
    service: ModelService, model: str
) -> None:
    bodies = [upload(ACME, model, version="v3.0.0", metrics={"mae": float(n)}) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: service.register("rita", body), bodies))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]
    won = next(n for n, answer in enumerate(answers) if answer.status_code == 201)
    found = service.call("vera", "GET", f"/{ACME}:{model}:v3.0.0").json()
    assert found["metrics"]["mae"] == won
    assert [version.version for version in registry.list_versions(ACME, model)] == [1]
    (run,) = uploads(service, ACME, model)
    assert run.data.metrics == {"mae": won}


_BOMB = b"a: &a [1, 1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"../MLmodel": b""}, id="parent"),
        pytest.param({"/etc/passwd": b""}, id="absolute"),
        pytest.param({"a\\..\\b": b""}, id="backslash"),
        pytest.param({"a//b": b""}, id="empty part"),
        pytest.param({"a": b"", "a/b": b""}, id="file and folder"),
        pytest.param({".ai-hub/metadata.json": b"{}"}, id="reserved"),
        pytest.param({"MLmodel": b"flavors: [unclosed"}, id="no yaml"),
        pytest.param({"MLmodel": b"!!python/object/apply:os.system ['true']"}, id="code"),
        pytest.param({"MLmodel": b"flavors: {python_function: {data: ../../etc}}"}, id="outside"),
        pytest.param({"MLmodel": b"flavors: {lightgbm: {}}\nsignature: {inputs: '[{]'}"}, id="signature"),
        pytest.param({"MLmodel": b"[" * 5000}, id="deep"),
        pytest.param({"MLmodel": _BOMB}, id="bomb"),
    ],
)
def test_register__of_hostile_files__is_refused_and_leaves_nothing(
    service: ModelService, model: str, files: dict[str, bytes]
) -> None:
    body = upload(ACME, model, artifact={"type": "upload", "files": encoded(files)})
    answer = service.register("rita", body)
    assert answer.status_code == 400, answer.text
    assert uploads(service, ACME, model) == []
    assert "no model" in service.call("vera", "GET", f"/{ACME}:{model}:1").json()["message"]


def _found(service: ModelService, body: dict[str, Any]) -> dict[str, Any]:
    made = service.register("rita", body)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = service.call("vera", "GET", f"/{made.json()['model_id']}").json()
    return found

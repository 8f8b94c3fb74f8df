"""The HTTP door: a real `mlflow server` with workspaces, our plugins, and a real S3 store."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm
import mlflow
import numpy as np
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.registry import versions
from mlflow_plugins.artifacts.s3 import s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

BUCKET = "ml-models"


@pytest.fixture(autouse=True)
def _tracking_uri(stack: dict[str, str]) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(stack["MLFLOW_TRACKING_URI"])
    mlflow.set_registry_uri(stack["MLFLOW_TRACKING_URI"])
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def acme(stack: dict[str, str]) -> Tenant:
    """One tenant."""
    return new_tenant(stack["MLFLOW_TRACKING_URI"])


@pytest.fixture
def beta(stack: dict[str, str]) -> Tenant:
    """Another tenant."""
    return new_tenant(stack["MLFLOW_TRACKING_URI"])


@pytest.fixture
def s3(stack: dict[str, str]) -> S3Client:
    """The store itself, past every door."""
    del stack
    return s3_client()


def test_registration__lays_out_the_bucket(acme: Tenant, s3: S3Client, tmp_path: Path) -> None:
    assert acme.register(tmp_path / "model", b"first") == 1
    assert acme.register(tmp_path / "model", b"second") == 2
    keys = _keys(s3, acme.name)
    root = f"{acme.name}/{MODEL}"
    files = ("MLmodel", "data/model.bin", "manifest.json", "metadata.json", "metrics.json")
    registered = sorted(f"{root}/{number}/{path}" for number in ("v1.0.0", "v1.0.1") for path in files)
    assert [key for key in keys if not key.startswith(f"{acme.name}/.runs/")] == registered
    assert _read(s3, f"{root}/v1.0.0/data/model.bin") == b"first"
    assert json.loads(_read(s3, f"{root}/v1.0.0/metrics.json")) == {"mae": 1.5}
    metadata = json.loads(_read(s3, f"{root}/v1.0.1/metadata.json"))
    assert metadata["tenant_id"] == acme.name
    assert metadata["feature_service"] == "forecast_basic"
    assert metadata["hyperparameters"] == {"feature_service": "forecast_basic"}


def test_download__by_number_and_alias__through_the_proxy(acme: Tenant, tmp_path: Path) -> None:
    acme.register(tmp_path / "model", b"first")
    acme.register(tmp_path / "model", b"second")
    assert acme.stage(2, "Production").status_code == 200
    for address, content in ((f"models:/{MODEL}/1", b"first"), (f"models:/{MODEL}@production", b"second")):
        with mlflow.utils.workspace_context.WorkspaceContext(acme.name):
            folder = mlflow.artifacts.download_artifacts(address, dst_path=str(tmp_path / content.decode()))
        assert (tmp_path / content.decode() / "data/model.bin").read_bytes() == content, folder


def test_download__of_files_of_our_names__is_what_was_logged(acme: Tenant, tmp_path: Path) -> None:
    logged = tmp_path / "model"
    logged.mkdir()
    for name in ("manifest.json", "metrics.json", "metadata.json"):
        (logged / name).write_text(f"{name} of the model")
    acme.register(logged, b"first")
    assert acme.stage(1, "Production").status_code == 200
    with mlflow.utils.workspace_context.WorkspaceContext(acme.name):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@production"))
    mine = {path.relative_to(logged): path.read_bytes() for path in logged.rglob("*") if path.is_file()}
    assert len(mine) == 5
    assert {path: (folder / path).read_bytes() for path in mine} == mine


def test_transition__refused__is_a_readable_409__at_every_door(acme: Tenant, tmp_path: Path) -> None:
    acme.register(tmp_path / "model")
    assert acme.stage(1, "Production").status_code == 200
    own_route = f"/ai-hub/api/models/{MODEL}/versions/1/stage"
    for answer in (
        acme.stage(1, "Staging"),
        acme.alias("staging", 1),
        acme.call("POST", own_route, json={"stage": "Staging"}),
    ):
        assert answer.status_code == 409
        body = answer.json()
        assert body["error_code"] == "RESOURCE_CONFLICT"
        assert "Production → Staging is not allowed" in body["message"]
    with registry.tenant_scope(acme.name), pytest.raises(MlflowException, match="Production → Staging"):
        acme.client.set_registered_model_alias(MODEL, "staging", "1")
    answer = acme.call(
        "DELETE", "/api/2.0/mlflow/registered-models/alias", json={"name": MODEL, "alias": "production"}
    )
    assert answer.status_code == 409
    assert "Promote another version" in answer.json()["message"]


def test_alias__is_the_promotion__and_archives_the_previous(acme: Tenant, tmp_path: Path) -> None:
    for _ in range(2):
        acme.register(tmp_path / "model")
    assert acme.alias("production", 1).status_code == 200
    assert acme.alias("production", 2).status_code == 200
    assert acme.stages() == {1: "Archived", 2: "Production"}
    with registry.tenant_scope(acme.name):
        assert acme.client.get_registered_model(MODEL).aliases == {"archived": "1", "production": "2"}


def test_promotions__at_once__leave_one_in_production(acme: Tenant, tmp_path: Path) -> None:
    versions = [acme.register(tmp_path / "model") for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda version: acme.stage(version, "Production").status_code, versions * 4))
    assert set(answers) <= {200, 409}
    assert Counter(acme.stages().values()) == {"Production": 1, "Archived": 3}


def test_tampering__is_refused_at_promotion_and_loading(acme: Tenant, s3: S3Client, tmp_path: Path) -> None:
    acme.register(tmp_path / "model", b"first")
    acme.register(tmp_path / "model", b"second")
    registry.promote(acme.name, MODEL, 1)
    for number in ("v1.0.0", "v1.0.1"):
        key = f"{acme.name}/{MODEL}/{number}/data/model.bin"
        content = bytearray(_read(s3, key))
        content[0] ^= 1
        s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    answer = acme.stage(2, "Production")
    assert answer.status_code == 409
    assert "data/model.bin" in answer.json()["message"]
    with pytest.raises(ConflictError, match=r"data/model\.bin"):
        registry.load_production(acme.name, MODEL)


def test_delete__removes_exactly_its_folder_and_reports_it(
    acme: Tenant, s3: S3Client, tmp_path: Path
) -> None:
    for _ in range(2):
        acme.register(tmp_path / "model")
    kept = [key for key in _keys(s3, acme.name) if "/v1.0.0/" not in key]
    path = f"/ai-hub/api/models/{MODEL}/versions/1"
    assert acme.call("DELETE", path).status_code == 409
    answer = acme.call("DELETE", path, params={"force": "true", "reason": "trained on the wrong year"})
    assert answer.status_code == 200
    assert len(answer.json()["files_deleted"]) == 5
    assert _keys(s3, acme.name) == kept
    deleted = registry.history(acme.name, MODEL)[0]
    assert (deleted.to_stage, deleted.reason) == ("Deleted", "trained on the wrong year")


def test_registered_files__cannot_be_written_through_the_proxy(
    acme: Tenant, s3: S3Client, tmp_path: Path
) -> None:
    acme.register(tmp_path / "model")
    before = _contents(s3, f"{acme.name}/{MODEL}/")
    for method in ("PUT", "DELETE"):
        for path in (
            f".models/{MODEL}/v1.0.0/MLmodel",
            f"workspaces/{acme.name}/.models/{MODEL}/v1.0.0/MLmodel",
            f"./.models/{MODEL}/v1.0.0",
            f"workspaces/{acme.name}//.models/{MODEL}",
            f"workspaces/{acme.name}/.models",
            f"workspaces/{acme.name}",
        ):
            answer = acme.artifact(method, path, data=b"evil")
            assert answer.status_code == 403, (method, path, answer.text)
    uri = f"mlflow-artifacts:/workspaces/{acme.name}/.models/{MODEL}/v1.0.0"
    (tmp_path / "evil.bin").write_bytes(b"evil")
    with registry.tenant_scope(acme.name), pytest.raises(requests.HTTPError, match="403"):
        get_artifact_repository(uri).log_artifact(str(tmp_path / "evil.bin"))
    assert _contents(s3, f"{acme.name}/{MODEL}/") == before


@pytest.mark.parametrize(
    "path",
    [
        "workspaces/{other}/.models/{model}/v1.0.0/MLmodel",
        "workspaces%2F{other}/.models/{model}/v1.0.0/MLmodel",
        "/workspaces/{other}/.models/{model}/v1.0.0/MLmodel",
        "./workspaces/{other}/.models/{model}/v1.0.0/MLmodel",
        "../{other}/.models/{model}/v1.0.0/MLmodel",
        "..%2F{other}/{model}/v1.0.0/MLmodel",
        "%2e%2e/{other}/{model}/v1.0.0/MLmodel",
        "%252e%252e/{other}/{model}/v1.0.0/MLmodel",
        "..%5c{other}%5c{model}",
        ".models/../../{other}/{model}/v1.0.0/MLmodel",
        "workspaces/{own}/../{other}/.models/{model}/v1.0.0/MLmodel",
        "workspaces/{own}/%2e%2e/{other}/.models/{model}/v1.0.0/MLmodel",
        "{other}/{model}/v1.0.0/MLmodel",
        ".models/{model}/v1.0.0/MLmodel",
    ],
)
@pytest.mark.parametrize("asking", ["tenant", "default"])
def test_tenants__never_reach_each_others_files(
    two_tenants: tuple[Tenant, Tenant], s3: S3Client, path: str, asking: str
) -> None:
    acme, beta = two_tenants
    own = "default" if asking == "default" else beta.name
    intruder = Tenant(own, beta.url, beta.client, beta.experiment)
    target = path.format(own=own, other=acme.name, model=MODEL)
    before = _contents(s3, f"{acme.name}/")
    answer = intruder.artifact("GET", target)
    assert answer.status_code in {400, 403, 404}, answer.text
    listing = intruder.call("GET", "/api/2.0/mlflow-artifacts/artifacts", params={"path": target})
    assert listing.status_code in {400, 403} or listing.json() == {}
    for method in ("PUT", "DELETE"):
        intruder.artifact(method, target, data=b"evil")
    assert _contents(s3, f"{acme.name}/") == before


def test_tenants__cannot_register_each_others_models(acme: Tenant, beta: Tenant, tmp_path: Path) -> None:
    acme.register(tmp_path / "model")
    run_id, own_source = beta.log_model(tmp_path / "other")
    theirs, source = acme.log_model(tmp_path / "model")
    for body in (
        {"source": source, "run_id": theirs},
        {"source": source, "run_id": run_id},
        {"source": f"mlflow-artifacts:/workspaces/{acme.name}/.models/{MODEL}/v1.0.0"},
        {"source": f"minio://{BUCKET}/{acme.name}/{MODEL}/v1.0.0"},
        {"source": f"s3://{BUCKET}/{acme.name}/{MODEL}/v1.0.0"},
        {"source": f"models:/{MODEL}/1"},
        {"source": f"{own_source}/../../../../../../{acme.name}/{MODEL}"},
        {"source": "file:///etc"},
    ):
        answer = beta.call("POST", "/api/2.0/mlflow/model-versions/create", json={"name": MODEL, **body})
        assert answer.status_code in {400, 403, 404}, (body, answer.text)
    assert beta.stages() == {}


def test_tenants__a_workspace_rooted_in_anothers_folder__is_refused(
    acme: Tenant, s3: S3Client, tmp_path: Path
) -> None:
    acme.register(tmp_path / "model")
    before = _contents(s3, f"{acme.name}/")
    for root in (f"mlflow-artifacts:/workspaces/{acme.name}", f"minio://{BUCKET}/workspaces/{acme.name}"):
        body = {"name": f"tenant-{secrets.token_hex(4)}", "default_artifact_root": root}
        refusal = acme.call("POST", "/api/3.0/mlflow/workspaces", json=body)
        assert (refusal.status_code, "default artifact root empty" in refusal.text) == (400, True)
        beside = {"name": "e", "artifact_location": root}
        assert acme.call("POST", "/api/2.0/mlflow/experiments/create", json=beside).status_code == 400
    assert _contents(s3, f"{acme.name}/") == before


def test_tenants__see_only_their_own_trail(acme: Tenant, beta: Tenant, tmp_path: Path) -> None:
    acme.register(tmp_path / "model")
    assert len(registry.history(acme.name, MODEL)) == 1
    assert registry.history(beta.name, MODEL) == []
    assert beta.stages() == {}
    with pytest.raises(NotFoundError, match="has no model nobodys-model"):
        registry.promote(beta.name, "nobodys-model", 1)
    with pytest.raises(NotFoundError, match="nobody-at-all"):
        registry.history("nobody-at-all", MODEL)
    with pytest.raises(BadInputError, match="cannot be a tenant"):
        registry.ensure_tenant("../acme")


def test_client__promote_rollback_history_load(acme: Tenant, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="in Production"):
        registry.load_production(acme.name, MODEL)
    acme.register(tmp_path / "model", b"first")
    registry.promote(acme.name, MODEL, reason="first of all")
    acme.register(tmp_path / "model", b"second")
    move = registry.promote(acme.name, MODEL, "latest", reason="lower error")
    assert (move.own.version, [row.version for row in move.displaced]) == (2, [1])
    assert _loaded(acme) == (b"second", "v1.0.1")
    back = registry.rollback(acme.name, MODEL, reason="drift")
    assert (back.own.version, back.own.from_stage) == (1, "Archived")
    assert _loaded(acme) == (b"first", "v1.0.0")
    trail = registry.history(acme.name, MODEL)
    assert [row.reason for row in trail if row.to_stage == "Production"] == [
        "drift", "lower error", "first of all",
    ]  # fmt: skip
    assert {row.actor_source for row in trail} == {"claimed"}
    between = registry.production_at(acme.name, MODEL, move.own.at)
    assert between is not None
    assert between.version == 2
    assert registry.find_version(acme.name, MODEL, "v1.0.1").stage == "Archived"
    with pytest.raises(ConflictError, match=r"already"):
        registry.promote(acme.name, MODEL, 1)
    with pytest.raises(NotFoundError, match="no candidate"):
        registry.promote(acme.name, MODEL, "latest")


def test_load_production__is_a_pyfunc_model__unless_told_otherwise(acme: Tenant, tmp_path: Path) -> None:
    features = np.arange(40.0).reshape(-1, 1)
    booster = lightgbm.train(
        {"verbosity": -1, "min_data_in_leaf": 1},
        lightgbm.Dataset(features, features[:, 0]),
        num_boost_round=5,
    )
    mlflow.lightgbm.save_model(booster, str(tmp_path / "saved"), pip_requirements=["lightgbm"])
    with registry.tenant_scope(acme.name):
        run = acme.client.create_run(acme.experiment)
        acme.client.log_artifacts(run.info.run_id, str(tmp_path / "saved"), "model")
        acme.client.create_model_version(MODEL, f"{run.info.artifact_uri}/model", run.info.run_id)
    registry.promote(acme.name, MODEL)
    model, version = registry.load_production(acme.name, MODEL)
    assert version.version == 1
    np.testing.assert_array_equal(model.predict(features), booster.predict(features))


def test_client__the_metrics_of_a_version__are_those_of_its_run(acme: Tenant, tmp_path: Path) -> None:
    acme.register(tmp_path / "model")
    (version,) = registry.list_versions(acme.name)
    assert version.metrics == {"mae": 1.5}
    assert version.aliases == ("staging",)


def test_versions__cost_calls_for_what_is_shown(
    acme: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        acme.register(tmp_path / str(number))  # each of a run of its own
    registry.promote(acme.name, MODEL, 1)
    acme.alias("champion", 3)
    asked: list[str] = []
    call = versions.call

    def counted(method: str, path: str, **arguments: Any) -> dict[str, Any]:
        asked.append("/".join(path.split("/")[-2:]))
        return call(method, path, **arguments)

    monkeypatch.setattr(versions, "call", counted)
    ways = {"latest": 3, "production": 1, "Staging": 3, "v1.0.1": 2, "1.0.1": 2, "2": 2, 3: 3}
    for wanted, number in ways.items():
        asked.clear()
        assert registry.find_version(acme.name, MODEL, wanted).version == number, wanted
        assert len(asked) == 1, (wanted, asked)
    assert registry.production_version(acme.name, MODEL).aliases == ("production",)
    assert registry.find_version(acme.name, MODEL, 3).aliases == ("champion", "staging")
    for wanted in ("v9.0.0", "9", "archived", "champion", "it's", str(2**70)):
        with pytest.raises(NotFoundError, match="no version"):
            registry.find_version(acme.name, MODEL, wanted)
    for nobody in ("nobody", "it's"):
        with pytest.raises(NotFoundError, match="no model"):
            registry.find_version(acme.name, nobody, "latest")
    asked.clear()
    shown = registry.list_versions(acme.name, limit=2)
    assert [(version.version, version.aliases) for version in shown] == [
        (3, ("champion", "staging")),
        (2, ()),
    ]
    assert sorted(asked) == ["model-versions/search", "registered-models/get", "runs/get", "runs/get"]


def test_tenant_scope__holds_per_thread(acme: Tenant, beta: Tenant, tmp_path: Path) -> None:
    acme.register(tmp_path / "model", b"first")
    registry.promote(acme.name, MODEL)

    def look(tenant: str) -> int:
        return len(registry.list_versions(tenant, MODEL))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, [acme.name, beta.name] * 6)) == [1, 0] * 6


@pytest.fixture(scope="module")
def two_tenants(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Tenant, Tenant]:
    """One tenant with a registered version and one without, shared by the attempts to get across."""
    acme, beta = (new_tenant(stack["MLFLOW_TRACKING_URI"]) for _ in range(2))
    acme.register(tmp_path_factory.mktemp("logged") / "model")
    return acme, beta


def _loaded(tenant: Tenant) -> tuple[bytes, str | None]:
    def loader(folder: str) -> bytes:
        return (Path(folder) / "data/model.bin").read_bytes()

    content, version = registry.load_production(tenant.name, MODEL, loader)
    return content, version.semantic_version


def _keys(s3: S3Client, tenant: str) -> list[str]:
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{tenant}/").get("Contents", [])
    return sorted(item["Key"] for item in listed)


def _contents(s3: S3Client, prefix: str) -> dict[str, str]:
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {item["Key"]: item["ETag"] for item in listed}


def _read(s3: S3Client, key: str) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

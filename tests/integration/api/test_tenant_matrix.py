# ruff: noqa: E501, S608 - requests and names of a fixed list
"""Every operation of the service with everybody who may not use it."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable  # a field of a dataclass
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
import redis
from mlflow import MlflowClient
from support.comparisons import record, stand_in
from support.day_ahead import logged_forecast, promote_day_ahead
from support.export_worker import worker_of
from support.model_service import booster, booster_upload, upload
from support.service_server import running_service

from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES, Scope
from ai_hub.api.app import create_app
from ai_hub.db import connect
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.features import newest
from ai_hub.features.materialize import materialize
from ai_hub.forecasting.retraining import propose_by_hand
from ai_hub.registry import ensure_tenant, tenant_scope
from ai_hub.registry.registering import FOLDER
from ai_hub.registry.versions import get_version, set_tag
from ai_hub.settings import ServiceSettings, Settings
from mlflow_plugins.gates.comparison import record_tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.energy import Energy

#: What nobody types who does not know it; it is in the victim's model and export.
MARK = f"foreign-{secrets.token_hex(6)}"
#: A meter and a file of the victim; an answer that there is none names it.
TRACED = f"traced-{secrets.token_hex(6)}"
WINDOW = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-02T00:00:00Z"}


@dataclass
class Place:
    """The service and what the two tenants have in it."""

    url: str
    victim: str
    other: str
    keys: dict[str, str]
    client: httpx.Client
    model: str = f"model-{secrets.token_hex(4)}"
    export_id: str = ""
    #: a completed one
    done_id: str = ""
    detection_id: str = ""
    explanation_id: str = ""
    forecast_id: str = ""
    run_id: str = ""
    #: one to approve, and one to reject
    retrain_ids: tuple[str, str] = ("", "")
    tried: Counter[str] = field(default_factory=Counter)

    def call(self, key: str | None, method: str, path: str, **arguments: Any) -> httpx.Response:
        headers = {} if key is None else {"X-API-Key": self.keys.get(key, key)}
        return self.client.request(method, f"{self.url}{path}", headers=headers, **arguments)


@dataclass(frozen=True)
class Operation:
    """How it is asked for data of a tenant, and the scope that takes."""

    scope: Scope | None
    request: Callable[[Place, str], tuple[str, str, dict[str, Any]]]


def _export(place: Place, tenant: str, suffix: str = "") -> tuple[str, str, dict[str, Any]]:
    return "GET", f"/ai/features/exports/{place.export_id}{suffix}", {"params": {"tenant_id": tenant}}


def _done(
    place: Place, tenant: str, suffix: str = "", method: str = "GET"
) -> tuple[str, str, dict[str, Any]]:
    return method, f"/ai/features/exports/{place.done_id}{suffix}", {"params": {"tenant_id": tenant}}


def _model(
    place: Place, tenant: str, method: str, suffix: str = "", **more: Any
) -> tuple[str, str, dict[str, Any]]:
    return method, f"/ai/models/{tenant}:{place.model}:v1.0.0{suffix}", more


def _retraining(
    place: Place, tenant: str, method: str, decision: str = "", **more: Any
) -> tuple[str, str, dict[str, Any]]:
    request_id = place.retrain_ids[decision == "/reject"]
    return method, f"/ai/retraining/{request_id}{decision}", {"params": {"tenant_id": tenant}, **more}


def _lineage(path: str, tenant: str) -> tuple[str, str, dict[str, Any]]:
    return "GET", f"/ai/lineage/{path}", {"params": {"tenant_id": tenant}}


SERIES = [{"timestamp": f"2026-01-01T0{hour}:00:00Z", "value": hour} for hour in range(9)]


def _explained(place: Place, tenant: str) -> dict[str, Any]:
    return {"tenant_id": tenant, "model_name": place.model, "model_version": "v1.0.0"}


FEATURES = {"hour_of_day": 9, "lag_1h": 2.5}
PROMOTION = {"target_stage": "production", "reason": "it is better"}
#: By method and path; the last ones change what is there.
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/ai/features/get"): Operation(
        Scope.FEATURES_READ,
        lambda _, tenant: ("POST", "/ai/features/get", {"json": {"tenant_id": tenant, "asset_id": "1"}}),
    ),
    ("GET", "/ai/features/sets"): Operation(None, lambda *_: ("GET", "/ai/features/sets", {})),
    ("GET", "/ai/features/exports"): Operation(
        Scope.EXPORTS_READ, lambda _, tenant: ("GET", "/ai/features/exports", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/features/exports/{export_id}"): Operation(Scope.EXPORTS_READ, _export),
    ("GET", "/ai/features/exports/{export_id}/files"): Operation(
        Scope.EXPORTS_READ, lambda p, t: _done(p, t, "/files")
    ),
    ("GET", "/ai/features/exports/{export_id}/download"): Operation(
        Scope.EXPORTS_READ, lambda p, t: _done(p, t, "/download")
    ),
    ("GET", "/ai/assets"): Operation(
        Scope.FEATURES_READ, lambda _, tenant: ("GET", "/ai/assets", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/models/"): Operation(
        Scope.MODELS_READ, lambda _, tenant: ("GET", "/ai/models/", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/models/{model_id}"): Operation(Scope.MODELS_READ, lambda p, t: _model(p, t, "GET")),
    ("GET", "/ai/models/{model_id}/comparisons"): Operation(
        Scope.MODELS_READ, lambda p, t: _model(p, t, "GET", "/comparisons")
    ),
    ("GET", "/ai/anomalies"): Operation(
        Scope.FEATURES_READ, lambda _, tenant: ("GET", "/ai/anomalies", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/anomaly/{detection_id}"): Operation(
        Scope.FEATURES_READ,
        lambda p, tenant: ("GET", f"/ai/anomaly/{p.detection_id}", {"params": {"tenant_id": tenant}}),
    ),
    ("POST", "/ai/anomaly"): Operation(
        Scope.FEATURES_READ,
        lambda _, tenant: (
            "POST", "/ai/anomaly",
            {"json": {"tenant_id": tenant, "asset_id": "1", "time_series": SERIES, "method": "iqr"}},
        ),
    ),
    ("POST", "/ai/explain"): Operation(
        Scope.MODELS_READ,
        lambda p, tenant: ("POST", "/ai/explain", {"json": {**_explained(p, tenant), "input_features": FEATURES}}),
    ),
    ("POST", "/ai/explain/global"): Operation(
        Scope.MODELS_READ, lambda p, tenant: ("POST", "/ai/explain/global", {"json": _explained(p, tenant)})
    ),
    ("GET", "/ai/explain/{explanation_id}"): Operation(
        Scope.MODELS_READ,
        lambda p, tenant: ("GET", f"/ai/explain/{p.explanation_id}", {"params": {"tenant_id": tenant}}),
    ),
    ("GET", "/ai/forecasts"): Operation(
        Scope.FORECASTS_READ, lambda _, tenant: ("GET", "/ai/forecasts", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/forecasts/accuracy"): Operation(
        Scope.FORECASTS_READ,
        lambda _, tenant: (
            "GET",
            "/ai/forecasts/accuracy",
            {"params": {"tenant_id": tenant, "asset_id": "1"}},
        ),
    ),
    ("GET", "/ai/forecasts/scores"): Operation(
        Scope.FORECASTS_READ, lambda _, tenant: ("GET", "/ai/forecasts/scores", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/forecasts/findings"): Operation(
        Scope.FORECASTS_READ, lambda _, tenant: ("GET", "/ai/forecasts/findings", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/forecast/{forecast_id}"): Operation(
        Scope.FORECASTS_READ,
        lambda p, tenant: ("GET", f"/ai/forecast/{p.forecast_id}", {"params": {"tenant_id": tenant}}),
    ),
    ("GET", "/ai/lineage/models/{model_id}"): Operation(
        Scope.MODELS_READ, lambda p, tenant: ("GET", f"/ai/lineage/models/{tenant}:{p.model}:v1.0.0", {})
    ),
    ("GET", "/ai/lineage/forecasts/{forecast_id}"): Operation(
        Scope.FORECASTS_READ, lambda p, tenant: _lineage(f"forecasts/{p.forecast_id}", tenant)
    ),
    ("GET", "/ai/lineage/imports/{name}"): Operation(
        Scope.FEATURES_READ, lambda _, tenant: _lineage(f"imports/{TRACED}.csv", tenant)
    ),
    ("GET", "/ai/lineage/assets/{asset_id}"): Operation(
        Scope.FEATURES_READ, lambda _, tenant: _lineage(f"assets/{TRACED}", tenant)
    ),
    ("POST", "/ai/forecast"): Operation(
        Scope.FORECASTS_WRITE,
        lambda _, tenant: ("POST", "/ai/forecast", {"json": {"tenant_id": tenant, "asset_id": "1"}}),
    ),
    ("GET", "/ai/retraining"): Operation(
        Scope.MODELS_READ, lambda _, tenant: ("GET", "/ai/retraining", {"params": {"tenant_id": tenant}})
    ),
    ("GET", "/ai/retraining/{request_id}"): Operation(
        Scope.MODELS_READ, lambda p, tenant: _retraining(p, tenant, "GET")
    ),
    ("POST", "/ai/retraining/{request_id}/approve"): Operation(
        Scope.MODELS_REGISTER, lambda p, tenant: _retraining(p, tenant, "POST", "/approve", json={"reason": "so"})
    ),
    ("POST", "/ai/retraining/{request_id}/reject"): Operation(
        Scope.MODELS_REGISTER, lambda p, tenant: _retraining(p, tenant, "POST", "/reject", json={"reason": "so"})
    ),
    ("POST", "/ai/features/export"): Operation(
        Scope.EXPORTS_WRITE,
        lambda _, tenant: (
            "POST", "/ai/features/export?wait_s=0",
            {"json": {"tenant_id": tenant, "feature_set": "forecast_basic", **WINDOW}},
        ),
    ),
    ("POST", "/ai/features/exports/{export_id}/cancel"): Operation(
        Scope.EXPORTS_WRITE, lambda p, t: ("POST", *_export(p, t, "/cancel")[1:])
    ),
    ("DELETE", "/ai/features/exports/{export_id}"): Operation(
        Scope.EXPORTS_WRITE, lambda p, t: _done(p, t, method="DELETE")
    ),
    ("POST", "/ai/models/register"): Operation(
        Scope.MODELS_REGISTER,
        lambda p, tenant: ("POST", "/ai/models/register", {"json": upload(tenant, f"{p.model}-new")}),
    ),
    ("PUT", "/ai/models/{model_id}/promote"): Operation(
        Scope.MODELS_PROMOTE, lambda p, t: _model(p, t, "PUT", "/promote", json=PROMOTION)
    ),
    ("DELETE", "/ai/models/{model_id}"): Operation(
        Scope.MODELS_DELETE, lambda p, t: _model(p, t, "DELETE", "?force=true")
    ),
}  # fmt: skip
LISTS = (
    "/ai/features/exports",
    "/ai/models/",
    "/ai/assets",
    "/ai/anomalies",
    "/ai/forecasts",
    "/ai/retraining",
)
NAMES = [" ".join(name) for name in OPERATIONS]


@pytest.fixture(scope="module")
def place(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    keys: dict[str, str] = {}

    def key(name: str, tenant: str, scopes: frozenset[Scope], **options: Any) -> None:
        made, text = api_keys.create(name, [tenant], scopes, created_by="test", **options)
        keys[name] = str(text)
        if name == "revoked":
            api_keys.revoke(made.key_id)

    for tenant in (energy.main, energy.twin):
        ensure_tenant(tenant)
    key("owner", energy.main, ALL_SCOPES)
    key("other", energy.twin, ALL_SCOPES)
    key("revoked", energy.main, ALL_SCOPES)
    key("expired", energy.main, ALL_SCOPES, expires_in=timedelta(milliseconds=1))
    for scope in Scope:
        key(f"without {scope}", energy.main, ALL_SCOPES - {scope})
    keys["malformed"] = "aih_not-a-key"
    keys["unknown"] = f"aih_{'a' * 12}_{'b' * 43}"
    time.sleep(0.01)
    exports: Path = tmp_path_factory.mktemp("exports")
    settings = Settings(export_storage_path=str(exports))
    # slow and one at a time: the embedded TimescaleDB
    options = ServiceSettings(
        database_timeout_s=60, redis_timeout_s=5, keys_refresh_s=0.2, unauthenticated_per_s=10_000
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        running_service(settings, options) as url,
        httpx.Client(timeout=120) as client,
    ):
        patch.setenv("AI_HUB_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        found = Place(url, energy.main, energy.twin, keys, client)
        body = booster_upload(found.victim, found.model, booster(tuple(FEATURES)), version="1.0.0")
        body["metadata"]["description"] = MARK
        made = found.call("owner", "POST", "/ai/models/register", json=body)
        assert made.status_code == 201, made.text
        registered = get_version(found.victim, found.model, "1")
        compared = record(tenant=found.victim, model=found.model, challenger=stand_in(1), unit=MARK)
        set_tag(registered, record_tag(1), compared.model_dump_json())
        read = found.call("owner", *_model(found, found.victim, "GET", "/comparisons")[:2])
        assert read.json()["comparisons"] == [compared.model_dump(mode="json")]
        for name, place in (("detection_id", "/ai/anomaly"), ("explanation_id", "/ai/explain")):
            method, path, arguments = OPERATIONS["POST", place].request(found, found.victim)
            setattr(found, name, found.call("owner", method, path, **arguments).json()[name])
        promote_day_ahead(found.victim, ["1"], model=f"ahead-{MARK}")
        materialize(energy.store, newest.Scope([found.victim]))
        found.forecast_id = logged_forecast(found.victim, f"model-{MARK}")
        found.retrain_ids = _proposed(settings, found.victim), _proposed(settings, found.victim)
        with connect() as connection:
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id) VALUES (%s, %s)", [found.victim, TRACED]
            )
            connection.execute(
                "INSERT INTO imports (tenant_id, table_name, file_name, sha256)"
                " VALUES (%s, 'timeseries_data', %s, repeat('ab', 32))",
                [found.victim, f"{TRACED}.csv"],
            )
        for name in ("done_id", "export_id"):
            made = found.call(
                "owner", "POST", "/ai/features/export?wait_s=0",
                json={"tenant_id": found.victim, "feature_set": "forecast_basic", "output_path": f"{name}-{MARK}.parquet", **WINDOW},
            )  # fmt: skip
            assert made.status_code == 202, made.text
            setattr(found, name, made.json()["export_id"])
            if name == "done_id":
                worker_of(settings).run(once=True)
        yield found


def _proposed(settings: Settings, tenant: str) -> str:
    name = f"model-{secrets.token_hex(4)}"
    version: Any = SimpleNamespace(tenant=tenant, model=name, version=1, semantic_version=None)
    return str(propose_by_hand(settings, version, by="test", reason=MARK).request_id)


def everything() -> dict[str, str]:
    """A digest of each store, whoever's it is."""
    settings = Settings()
    found: dict[str, Any] = {}
    with connect() as connection:
        for table in (
            "analyses",
            "forecast_runs",
            "forecasts",
            "jobs",
            "retrain_requests",
            "retrain_policies",
            "api_keys",
            "assets",
            "ai_features",
            "ai_features_stored",
            "sql_logins",
        ):
            # in any order, without sending every row of the run
            found[table] = connection.execute(
                f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} AS t"
            ).fetchone()
    client = redis.Redis.from_url(settings.require("redis_url"))
    names = sorted(client.keys())
    found["redis"] = [
        (name, sorted(client.hgetall(name).items())) for name in names if client.type(name) == b"hash"
    ]
    store = boto3.client(
        "s3",
        endpoint_url=settings.minio_endpoint_url,
        aws_access_key_id=settings.require("minio_access_key"),
        aws_secret_access_key=settings.require("minio_secret_key"),
        region_name="us-east-1",
    )
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=settings.model_storage_bucket)
    found["s3"] = [(each["Key"], each["ETag"]) for page in pages for each in page.get("Contents", ())]
    return {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in found.items()}


def registry(place: Place) -> Any:
    """The victim's models as the victim sees them."""
    return place.call("owner", "GET", "/ai/models/", params={"tenant_id": place.victim}).json()


def victims_run(place: Place) -> str:
    """The run that the victim's version comes from."""
    # by its address: other tests of this process have set MLflow's own
    url = Settings().require("mlflow_tracking_uri")
    with tenant_scope(place.victim):
        version = MlflowClient(url, url).get_model_version(place.model, "1")
    return str(version.run_id)


def foreign_paths(place: Place) -> list[str]:
    """Ways to write into the victim's folder or prefix."""
    victim = place.victim
    return [
        f"../{victim}/x.parquet", f"/{victim}/x.parquet", f"a/../../{victim}/x.parquet", f"..\\{victim}\\x.parquet",
        f"s3://ml-models/{victim}/x.parquet", f"./../{victim}/x.parquet",
    ]  # fmt: skip


def test_matrix__has_every_operation_of_the_service() -> None:
    document = create_app().openapi()
    protected = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation.get("security")
    }
    unprotected = {
        path
        for path, methods in document["paths"].items()
        for each in methods.values()
        if "security" not in each
    }
    assert protected == OPERATIONS.keys()
    assert unprotected == {"/health", "/api/health", "/health/live", "/health/ready", "/metrics"}


def test_matrix__whoever_may_not__gets_nothing_and_changes_nothing(place: Place) -> None:
    before, models = everything(), registry(place)
    assert MARK in str(models)
    problems = []

    def expect(what: str, answer: httpx.Response, *statuses: int) -> None:
        place.tried[what.split(":", 1)[0]] += 1
        if answer.status_code not in statuses or MARK in answer.text:
            problems.append((what, answer.status_code, answer.text[:200]))

    for (name, operation), who in itertools.product(
        OPERATIONS.items(), (None, "unknown", "malformed", "expired", "revoked")
    ):
        method, path, arguments = operation.request(place, place.victim)
        expect(f"{who}: {name}", place.call(who, method, path, **arguments), 401)
    for name, operation in OPERATIONS.items():
        method, path, arguments = operation.request(place, place.victim)
        if operation.scope is None:
            continue
        expect(f"other tenant's key: {name}", place.call("other", method, path, **arguments), 403)
        lacking = place.call(f"without {operation.scope}", method, path, **arguments)
        expect(f"without the scope: {name}", lacking, 403)
        if "{" in name[1]:
            # the other tenant's own name, and what the victim has
            method, path, arguments = operation.request(place, place.other)
            expect(f"foreign id: {name}", place.call("other", method, path, **arguments), 404)
    for name in [name for name in OPERATIONS if name[1] in LISTS]:
        method, path, arguments = OPERATIONS[name].request(place, place.other)
        listed = place.call("other", method, path, **arguments)
        expect(f"own list: {name}", listed, 200)
        if place.victim in listed.text:
            problems.append((f"own list: {name}", 200, listed.text[:200]))
    for path in LISTS:
        both = f"{path}?tenant_id={place.other}&tenant_id={place.victim}"
        expect(f"two tenants: {path}", place.call("other", "GET", both), 403)
    count = sum(place.tried.values())
    print(f"{count} requests on {len(OPERATIONS)} operations: {dict(place.tried)}; {len(problems)} leaks")  # noqa: T201
    assert problems == []
    assert everything() == before
    assert registry(place) == models
    assert count >= 80


def test_matrix__foreign_runs_and_folders_under_ones_own_name__are_out_of_reach(place: Place) -> None:
    before, models = everything(), registry(place)
    run = victims_run(place)
    artifacts = [{"type": "run", "run_id": run, **more} for more in ({}, {"path": FOLDER}, {"path": "data"})]
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("run", "/ai/models/register", upload(place.other, f"{place.model}-stolen", artifact=artifact))
        for artifact in artifacts
    ]
    requests += [
        (
            "folder",
            "/ai/features/export?wait_s=0",
            {"tenant_id": place.other, "feature_set": "forecast_basic", "output_path": path, **WINDOW},
        )
        for path in foreign_paths(place)
    ]
    for what, path, body in requests:
        answer = place.call("other", "POST", path, json=body)
        assert answer.status_code == (404 if what == "run" else 400), (body, answer.text)
        assert MARK not in answer.text
    assert everything() == before
    assert registry(place) == models
    # the same run is a model to its owner
    own = upload(place.victim, f"{place.model}-again", artifact=artifacts[1])
    assert place.call("owner", "POST", "/ai/models/register", json=own).status_code == 201
    print(f"{len(requests)} requests for foreign runs and folders; 0 leaks")  # noqa: T201


def test_stores__of_two_tenants__hold_each_its_own(place: Place) -> None:
    def features(key: str, tenant: str) -> Any:
        body = {"tenant_id": tenant, "asset_id": "1"}
        return place.call(key, "POST", "/ai/features/get", json=body).json()["features"]

    # the meters of both have the same name, and so have their features in Redis but for the tenant
    assert features("owner", place.victim) != features("other", place.other)
    settings = Settings()
    names = redis.Redis.from_url(settings.require("redis_url")).keys(f"*{place.victim}*")
    assert not [name for name in names if place.other.encode() in name]
    with connect() as connection, as_tenant(connection, place.other):
        foreign = [
            connection.execute(f"SELECT count(*) FROM {name} WHERE tenant_id <> %s", [place.other]).fetchone()
            for name in (
                "assets",
                "timeseries_data",
                "hourly_features",
                "ai_features",
                "feature_exports",
                "analyses",
                "forecast_runs",
                "forecasts",
                "forecast_scores",
                "model_findings",
                "retrain_requests",
                "retrain_policies",
                "imports",
                "import_hours",
                "served_features",
                "jobs",
            )
        ]
        assert set(foreign) == {(0,)}
        assert connection.execute("SELECT count(*) FROM ai_features").fetchone() != (0,)


@pytest.mark.parametrize("name", OPERATIONS, ids=" ".join)
def test_matrix__whoever_may__is_served(place: Place, name: tuple[str, str]) -> None:
    method, path, arguments = OPERATIONS[name].request(place, place.victim)
    answer = place.call("owner", method, path, **arguments)
    assert answer.status_code < 300, answer.text

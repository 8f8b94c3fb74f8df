"""Behind MLflow's login the service has an account of its own, and the audit trail names its callers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support import model_service
from support.model_service import ACME, PEOPLE, POLICY, ModelService, upload
from support.people_server import PeopleServer, running_with_login

from ai_hub import registry
from mlflow_plugins.users.header import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SERVICE = "ai-hub-service"
_ROLES = {_SERVICE: {ACME: "approver"}, "mallory": {ACME: "approver"}}


@pytest.fixture(scope="module")
def server(
    servers: Any, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PeopleServer]:
    """MLflow with login; `ai-hub-service` may speak for others, `mallory` may not."""
    folder = tmp_path_factory.mktemp("login")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    (folder / "policy.yaml").write_text(POLICY)
    more = {
        "AI_HUB_DELEGATES": f"{_SERVICE}, another",
        "PROMOTION_POLICY_PATH": str(folder / "policy.yaml"),
    }
    stack = servers.start("s3")
    with running_with_login(f"sqlite:///{folder / 'mlflow.db'}", stack, folder, _ROLES, more) as running:
        yield running


@pytest.fixture(scope="module")
def service(server: PeopleServer) -> Iterator[ModelService]:
    """The service, logged in as `ai-hub-service`."""
    with server.person(_SERVICE), model_service.running(server.url, PEOPLE) as running:
        yield running


def test_callers__are_named_in_the_audit_trail_and_told_apart_by_the_gates(
    server: PeopleServer, service: ModelService
) -> None:
    made = service.register("rita", upload(ACME, "guarded", metrics={"mae": 1.0}))
    assert made.status_code == 201, made.text
    model_id = made.json()["model_id"]
    own = service.register("olga", upload(ACME, "guarded", metrics={"mae": 1.0})).json()["model_id"]
    refused = service.promote("olga", own, "production")
    assert refused.status_code == 409
    assert "olga made this version" in refused.json()["message"]
    assert service.promote("paul", model_id, "production").status_code == 200
    with server.person(_SERVICE):
        trail = registry.history(ACME, "guarded", version=1)
    assert [(row.to_stage, row.actor, row.actor_source) for row in trail] == [
        ("Production", "paul", "delegated"),
        ("Staging", "rita", "delegated"),
    ]
    page = server.session("admin", ACME).get("/lifecycle/guarded?workspace=" + ACME).text
    assert "(claimed)" not in page


def test_the_header_of_others__is_ignored(server: PeopleServer, service: ModelService) -> None:
    model_id = service.register("rita", upload(ACME, "loud")).json()["model_id"]
    session = server.session("mallory", ACME)
    path = "/ai-hub/api/models/loud/versions/1/stage"
    moved = session.post(path, json={"stage": "Archived"}, headers={HEADER: "paul"}).json()["transitions"][0]
    assert (moved["actor"], moved["actor_source"]) == ("mallory", "authenticated")
    session.post(path, json={"stage": "Staging"}, headers={HEADER: "paul"})
    body = {"name": "loud", "version": "1", "stage": "Production", "archive_existing_versions": False}
    answer = session.post(
        "/api/2.0/mlflow/model-versions/transition-stage", json=body, headers={HEADER: "paul"}
    )
    assert answer.status_code == 200, answer.text
    with server.person(_SERVICE):
        assert {row.actor for row in registry.history(ACME, "loud")} == {"mallory", "rita"}
    assert service.call("vera", "GET", f"/{model_id}").json()["stage"] == "production"


def test_a_tenant_without_a_role__is_404_and_says_how_to_get_one(service: ModelService) -> None:
    answer = service.register("olga", upload("nowhere", "demand"))
    assert answer.status_code == 404
    assert "grant ai-hub-service --tenant nowhere --role approver" in answer.json()["hint"]

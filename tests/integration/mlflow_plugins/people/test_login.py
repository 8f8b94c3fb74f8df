"""Nobody gets in without a login, and whoever has one is who the audit trail names."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from support.people_server import MODEL, password

from ai_hub import registry
from ai_hub.api.health import Health
from ai_hub.errors import NotLoggedInError
from ai_hub.registry import users
from ai_hub.settings import Settings
from mlflow_plugins.web.mount import ASSISTANT

if TYPE_CHECKING:
    from support.people_server import PeopleServer, Tenant

#: The bundle of the pages, whether the server lives, and what it is: nothing of any tenant.
PUBLIC = re.compile(r"/health|/static-files/.*|/(ajax-)?api/3.0/mlflow/server-info")
STAGE = f"/ai-hub/api/models/{MODEL}/versions/1/stage"


def test_every_route__without_a_login__is_401(server: PeopleServer, routes: list[tuple[str, str]]) -> None:
    with server.session(None, "acme") as nobody:
        answers = {
            (method, path): nobody.request(method, re.sub(r"<[^>]*>|\{[^}]*\}", "1", path))
            for method, path in routes
            if method != "OPTIONS" and not PUBLIC.fullmatch(path)
        }
    assert len(answers) > 600
    # the assistant is off for everybody
    off = {key for key in answers if key[1].startswith(ASSISTANT)}
    assert {answers.pop(key).status_code for key in off} == {404}
    assert {key: item.status_code for key, item in answers.items() if item.status_code != 401} == {}
    assert all(item.headers["WWW-Authenticate"].startswith("Basic ") for item in answers.values())


@pytest.mark.parametrize("path", [STAGE, "/api/2.0/mlflow/registered-models/alias", "/ai-hub/nothing-here"])
@pytest.mark.parametrize("login", [("anna", "wrong password"), ("nobody", "anna-has-a-secret"), ("anna", "")])
def test_a_wrong_login__is_401(server: PeopleServer, path: str, login: tuple[str, str]) -> None:
    with server.session(None, "acme") as session:
        session.auth = login
        assert session.post(path, json={}).status_code == 401
        assert session.get("/ai-hub/nothing-here").status_code == 401


def test_the_trail__names_who_logged_in__whatever_the_client_says(acme: Tenant) -> None:
    version = acme.versions[0]
    session = acme.session("anna")
    session.headers["X-AI-Hub-User"] = "mallory"
    for path, body in (
        ("/ai-hub/api/models/demand/versions/1/stage", {"stage": "Archived", "reason": "ours"}),
        (
            "/api/2.0/mlflow/model-versions/transition-stage",
            {"name": MODEL, "version": "1", "stage": "Staging", "archive_existing_versions": False},
        ),
        ("/api/2.0/mlflow/registered-models/alias", {"name": MODEL, "version": "1", "alias": "archived"}),
    ):
        tag = {"name": MODEL, "version": str(version), "key": "promotion.user", "value": "mallory"}
        assert session.post("/api/2.0/mlflow/model-versions/set-tag", json=tag).status_code == 200
        assert session.post(path, json=body).status_code == 200
    rows = session.get(f"/ai-hub/api/models/{MODEL}/transitions", params={"version": version}).json()
    named = [(row["actor"], row["actor_source"]) for row in rows["transitions"]]
    assert named == [("anna", "authenticated")] * 3 + [("emil", "authenticated")]
    acme.put(version, "Staging")


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", STAGE),
        ("POST", f"/ai-hub/api/models/{MODEL}/rollback"),
        ("DELETE", f"/ai-hub/api/models/{MODEL}/versions/1"),
        ("POST", "/api/2.0/mlflow/model-versions/transition-stage"),
        ("POST", "/ajax-api/2.0/mlflow/registered-models/alias"),
    ],
)
@pytest.mark.parametrize("body", [{"json": {"stage": "Archived"}}, {"data": {"stage": "Archived"}}])
def test_a_page_of_another_site__changes_nothing(
    acme: Tenant, method: str, path: str, headers: dict[str, str], body: dict[str, dict[str, str]]
) -> None:
    answer = acme.session("anna").request(method, path, headers=headers, **body)
    assert answer.status_code == 403
    assert "another site" in answer.json()["message"]


def test_clients__log_in_by_the_usual_variables(
    server: PeopleServer, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.person("vera"):
        # tests before this one may have registered more
        assert {version.version for version in registry.list_versions("acme", MODEL)} >= set(acme.versions)
        assert registry.history("acme", MODEL)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not veras")
        with pytest.raises(NotLoggedInError, match="wants a login") as refused:
            registry.list_versions("acme", MODEL)
        assert refused.value.hint is not None
        assert "MLFLOW_TRACKING_USERNAME" in refused.value.hint
        with pytest.raises(NotLoggedInError):
            registry.history("acme", MODEL)


def test_a_changed_password__counts_at_once(server: PeopleServer) -> None:
    # one worker: others take the old one for as long as they remember it
    with server.person("admin"):
        users.add("tess", password("tess"))
        with server.session("tess") as session:
            assert session.get("/version").status_code == 200
            assert users.add("tess", "another-secret-of-tess") is False
            assert session.get("/version").status_code == 401
            session.auth = ("tess", "another-secret-of-tess")
            assert session.get("/version").status_code == 200
            assert users.remove("tess")
            assert session.get("/version").status_code == 401
        assert users.remove("tess") is False


def test_readiness__uses_the_account_of_the_service(
    server: PeopleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({"mlflow_tracking_uri": server.url})
    found = {}
    for name, secret in (("noor", password("noor")), ("noor", "stale-password"), ("", "")):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
        found[name, secret] = asyncio.run(Health(settings).check()).dependencies["mlflow"]
    assert [each.status for each in found.values()] == ["ok", "down", "down"]
    assert all("MLflow answers 401" in each.reason for each in list(found.values())[1:])
    assert "stale" not in str(found.values())

"""`ai-hub people …` against a server with login, and against one without."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support import registry_servers
from support.people_server import ADMIN, password
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.registry import users
from mlflow_plugins.users.roles import GRANTS, Role

if TYPE_CHECKING:
    from pathlib import Path

    from support.people_server import PeopleServer

SECRET = "long enough to be taken"


def _run(*arguments: str, **options: Any) -> str:
    result = CliRunner().invoke(app, ["people", *arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_persons_life(server: PeopleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_HUB_NEW_PASSWORD", SECRET)
    with server.person(ADMIN):
        assert _run("add", "ida") == "ida: added\n"
        assert _run("add", "ida") == "ida: was there; the password is new\n"
        granted = _run("grant", "ida", "--tenant", "gamma", "--role", "viewer", "--new-tenant")
        assert granted == "ida: viewer of gamma\n"
        assert _run("grant", "ida", "--tenant", "gamma", "--role", "viewer") == "ida: viewer of gamma\n"
        assert _of("ida") == {"gamma": ["viewer"]}
        _run("grant", "ida", "--tenant", "acme", "--role", "engineer")
        _run("grant", "ida", "--tenant", "gamma", "--role", "approver")
        assert _of("ida") == {"gamma": ["approver"], "acme": ["engineer"]}
        assert [item["name"] for item in json.loads(_run("list", "--tenant", "gamma", "--json"))] == ["ida"]
        assert "approver of gamma" in _run("list")
        assert "administrator" in _run("list")
        assert _run("list", "--tenant", "nowhere") == "Nobody has a role in nowhere.\n"
        assert _run("revoke", "ida", "--tenant", "gamma") == "ida: no longer approver of gamma\n"
        assert _run("revoke", "ida", "--tenant", "gamma") == "ida: had no role in gamma\n"
        assert _of("ida") == {"acme": ["engineer"]}
        assert _run("remove", "ida") == "ida: removed\n"
        assert _run("remove", "ida") == "ida: there was nobody by that name\n"


@pytest.mark.parametrize(
    "change", ["viewer", *(pytest.param(each, marks=pytest.mark.long) for each in ("revoked", "removed"))]
)
def test_what_they_created__goes_with_the_role(server: PeopleServer, change: str) -> None:
    """MLflow makes creators managers of their own; that must not outlive the role."""
    model = {"name": f"of-lee-{change}"}
    with server.person(ADMIN), server.session("lee", "acme") as session:
        users.add("lee", password("lee"))
        users.grant("lee", "acme", Role.ENGINEER)
        for path in ("registered-models", "experiments"):
            created = session.post(f"/api/2.0/mlflow/{path}/create", json=model)
            assert created.status_code == 200, created.text
        number = {"experiment_id": created.json()["experiment_id"]}
        assert session.post("/api/2.0/mlflow/runs/create", json=number).status_code == 200
        if change == "viewer":
            users.grant("lee", "acme", Role.VIEWER)
        elif change == "revoked":
            assert users.revoke("lee", "acme") == ["engineer"]
        else:
            users.remove("lee")
        read = session.get("/api/2.0/mlflow/registered-models/get", params=model).status_code
        assert read == {"viewer": 200, "revoked": 403, "removed": 401}[change]
        for path, body in (("runs/create", number), ("registered-models/set-tag", {**model, "key": "x"})):
            assert session.post(f"/api/2.0/mlflow/{path}", json=body).status_code in {401, 403}
        # and it does not come back with the next role
        users.add("lee", password("lee"))
        users.grant("lee", "acme", Role.ENGINEER)
        deletion = session.delete("/api/2.0/mlflow/registered-models/delete", json=model)
        assert deletion.status_code == 403
        users.remove("lee")


def test_add__asks_for_the_password(server: PeopleServer) -> None:
    with server.person(ADMIN):
        shown = _run("add", "jo", input=f"{SECRET}\n{SECRET}\n")
        assert SECRET not in shown
        with server.session("jo") as session:
            session.auth = ("jo", SECRET)
            assert session.get("/version").status_code == 200
        _run("remove", "jo")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("grant", "nobody", "--tenant", "acme", "--role", "viewer"), NotFoundError),
        (("grant", "emil", "--tenant", "no-such-tenant", "--role", "viewer"), NotFoundError),
        (("revoke", "nobody", "--tenant", "acme"), NotFoundError),
        (("add", "kim"), BadInputError),  # too short a password
        (("s3-policy", "acme/*"), BadInputError),
    ],
)
def test_mistakes__are_named(
    server: PeopleServer, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    monkeypatch.setenv("AI_HUB_NEW_PASSWORD", "short")
    with server.person(ADMIN), pytest.raises(error):
        _run(*arguments)


def test_a_changed_role__is_put_right(server: PeopleServer) -> None:
    with server.person(ADMIN), server.session(ADMIN) as session:
        query = {"workspace": "acme"}
        roles = session.get("/api/3.0/mlflow/roles/list", params=query).json()["roles"]
        (viewer,) = (role for role in roles if role["name"] == "viewer")
        extra = {"role_id": viewer["id"], "resource_type": "experiment", "resource_pattern": "*"}
        session.post("/api/3.0/mlflow/roles/permissions/add", json={**extra, "permission": "MANAGE"})
        lost = viewer["permissions"][0]["id"]
        session.delete("/api/3.0/mlflow/roles/permissions/remove", json={"role_permission_id": lost})
        users.grant("vera", "acme", Role.VIEWER)
        roles = session.get("/api/3.0/mlflow/roles/list", params=query).json()["roles"]
        (viewer,) = (role for role in roles if role["name"] == "viewer")
        grants = {(item["resource_type"], item["permission"]) for item in viewer["permissions"]}
        assert grants == {(each.resource_type, each.permission) for each in GRANTS[Role.VIEWER]}


def test_s3_policy__is_printed() -> None:
    policy = json.loads(_run("s3-policy", "acme"))
    assert policy["Statement"][0]["Resource"] == ["arn:aws:s3:::ml-models/acme/*"]


def test_a_server_without_login__has_no_people(
    servers: Any, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sqlite_template, tmp_path / "mlflow.db")
    stack = servers.start("s3")
    with registry_servers.running(f"sqlite:///{tmp_path / 'mlflow.db'}", stack, tmp_path) as plain:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", plain.url)
        with pytest.raises(BadInputError, match="without login"):
            _run("list")


def _of(name: str) -> dict[str, list[str]]:
    (person,) = (person for person in users.list_users() if person.name == name)
    return person.roles

"""What each role may do, at every door: MLflow's pages and REST, our REST, the client, the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow.utils.workspace_context import WorkspaceContext
from requests import Response
from support.people_server import ADMIN, MODEL, Session
from support.people_sweep import ask, contents, known_of, without_twins
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli.main import app
from ai_hub.errors import ForbiddenError
from ai_hub.registry import users
from mlflow_plugins.users.roles import Role

if TYPE_CHECKING:
    from support.people_server import PeopleServer, Tenant

V2 = "/api/2.0/mlflow"
OURS = f"/ai-hub/api/models/{MODEL}"
VIEWER, ENGINEER, APPROVER = "vera", "emil", "anna"
#: Whoever has no role in the tenant.
OUTSIDERS = ("bert", "noor")


@dataclass(frozen=True)
class Door:
    """One way to do something to a version that is in stage `start`; `allowed` may, the others get 403."""

    name: str
    start: str
    allowed: tuple[str, ...]
    go: Callable[[Session, int], Response]


def _stage_menu(stage: str) -> Callable[[Session, int], Response]:
    def go(session: Session, version: int) -> Response:
        body = {"name": MODEL, "version": str(version), "stage": stage, "archive_existing_versions": False}
        return session.post(f"{V2}/model-versions/transition-stage", json=body)

    return go


def _alias(alias: str) -> Callable[[Session, int], Response]:
    def go(session: Session, version: int) -> Response:
        body = {"name": MODEL, "alias": alias, "version": str(version)}
        return session.post(f"{V2}/registered-models/alias", json=body)

    return go


def _our_rest(stage: str) -> Callable[[Session, int], Response]:
    def go(session: Session, version: int) -> Response:
        return session.post(f"{OURS}/versions/{version}/stage", json={"stage": stage})

    return go


def _tag(session: Session, version: int) -> Response:
    body = {"name": MODEL, "version": str(version), "key": "note", "value": "looks good"}
    return session.post(f"{V2}/model-versions/set-tag", json=body)


def _describe(session: Session, version: int) -> Response:
    body = {"name": MODEL, "version": str(version), "description": "of use"}
    return session.patch(f"{V2}/model-versions/update", json=body)


def _read(session: Session, version: int) -> Response:
    return session.get(f"{V2}/model-versions/get", params={"name": MODEL, "version": str(version)})


def _history(session: Session, version: int) -> Response:
    return session.get(f"{OURS}/transitions", params={"version": version})


MEMBERS = (VIEWER, ENGINEER, APPROVER)
WORKERS = (ENGINEER, APPROVER)
DOORS = [
    Door("read", "Staging", MEMBERS, _read),
    Door("read the trail", "Staging", MEMBERS, _history),
    Door("tag", "Staging", WORKERS, _tag),
    Door("tag the production version", "Production", WORKERS, _tag),
    Door("describe", "Staging", WORKERS, _describe),
    *(
        Door(f"{action} by {door}", start, allowed, way(word if door == "alias" else stage))
        for action, start, stage, word, allowed in (
            ("promote", "Staging", "Production", "production", (APPROVER,)),
            ("archive the production version", "Production", "Archived", "archived", (APPROVER,)),
            ("archive", "Staging", "Archived", "archived", WORKERS),
            ("restore", "Archived", "Staging", "staging", WORKERS),
        )
        for door, way in (("stage menu", _stage_menu), ("alias", _alias), ("our REST", _our_rest))
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_door(acme: Tenant, door: Door) -> None:
    version = acme.versions[0]
    acme.put(version, door.start)
    for person in (*MEMBERS, *OUTSIDERS):
        answer = door.go(acme.session(person), version)
        if person not in door.allowed:
            assert (person, answer.status_code) == (person, 403), answer.text
            assert acme.stage(version) == door.start
        else:
            assert (person, answer.status_code) == (person, 200), answer.text
            acme.put(version, door.start)
        if person == ENGINEER and APPROVER in door.allowed and ENGINEER not in door.allowed:
            assert answer.json()["message"] == (
                "Only an approver of tenant acme may move a version into or out of Production. Ask anna."
            )
    acme.put(version, "Staging")


def test_rollback__is_the_approvers(acme: Tenant) -> None:
    first, second, *_ = acme.versions
    for version in (first, second):
        acme.put(version, "Production")
    for person in (VIEWER, ENGINEER, *OUTSIDERS):
        answer = acme.session(person).post(f"{OURS}/rollback", json={"reason": "it was better"})
        assert (person, answer.status_code) == (person, 403), answer.text
    assert (acme.stage(first), acme.stage(second)) == ("Archived", "Production")
    assert acme.session(APPROVER).post(f"{OURS}/rollback", json={}).status_code == 200
    assert (acme.stage(first), acme.stage(second)) == ("Production", "Archived")
    for version in (first, second):
        acme.put(version, "Staging")


def test_deletion(acme: Tenant, tmp_path: Path) -> None:
    # emil made the model, so he may delete its versions; the one in Production he may not
    version = acme.register(ENGINEER, tmp_path / "doomed")
    forced = f"{OURS}/versions/{version}?force=true"
    for person in (VIEWER, *OUTSIDERS):
        assert acme.session(person).delete(forced).status_code == 403
        body = {"name": MODEL, "version": str(version)}
        assert acme.session(person).delete(f"{V2}/model-versions/delete", json=body).status_code == 403
    acme.put(version, "Production")
    assert acme.session(ENGINEER).delete(forced).status_code in {403, 409}
    assert acme.stage(version) == "Production"
    acme.put(version, "Staging")
    assert acme.session(ENGINEER).delete(forced).status_code == 200
    acme.versions.remove(version)


def test_registering_and_creating(server: PeopleServer, acme: Tenant, tmp_path: Path) -> None:
    for person in WORKERS:
        acme.versions.remove(acme.register(person, tmp_path / person))
    for path, body in (
        (f"{V2}/registered-models/create", {"name": "another"}),
        (f"{V2}/experiments/create", {"name": "another"}),
        (f"{V2}/runs/create", {"experiment_id": acme.experiment}),
        (f"{V2}/model-versions/create", {"name": MODEL, "source": "models:/demand/1"}),
        (f"{V2}/logged-models", {"experiment_id": acme.experiment}),
        ("/ajax-api/3.0/mlflow/demo/generate", {}),
        ("/ajax-api/3.0/mlflow/mcp-servers", {"name": "another/one"}),
        ("/api/3.0/mlflow/gateway/secrets/create", {"secret_name": "x"}),
    ):
        for person in (VIEWER, *OUTSIDERS):
            answer = acme.session(person).post(path, json=body)
            assert (path, person, answer.status_code) == (path, person, 403), answer.text
    for path in ("registered-models", "experiments"):
        body = {"name": "emils"}
        assert acme.session(ENGINEER).post(f"{V2}/{path}/create", json=body).status_code == 200
    artifact = f"/api/2.0/mlflow-artifacts/artifacts/workspaces/acme/{acme.experiment}/{acme.run}/artifacts/x"
    assert acme.session(VIEWER).put(artifact, data=b"x").status_code == 403
    assert acme.session(ENGINEER).put(artifact, data=b"x").status_code == 200
    # nobody is an engineer without a tenant
    assert server.session(ENGINEER).post(f"{V2}/experiments/create", json={"name": "x"}).status_code == 403


def test_a_viewer__changes_nothing__at_any_route(acme: Tenant, routes: list[tuple[str, str]]) -> None:
    acme.put(1, "Production")
    before = contents(acme)
    known = known_of(acme)
    with acme.session(VIEWER) as session:
        asked = [
            ask(session, method, path, known) for method, path in without_twins(routes) if method != "GET"
        ]
    assert len(asked) > 150
    assert contents(acme) == before


@pytest.mark.parametrize(("person", "code"), [(VIEWER, 1), (ENGINEER, 1), ("bert", 1), (APPROVER, 0)])
def test_command_line(server: PeopleServer, acme: Tenant, person: str, code: int) -> None:
    with server.person(person):
        result = CliRunner().invoke(app, ["promote", MODEL, "--tenant", "acme", "--version", "1"])
    assert result.exit_code == code
    if code:
        assert isinstance(result.exception, ForbiddenError)
        if person == ENGINEER:
            assert "Only an approver of tenant acme" in result.exception.message
    acme.put(1, "Staging")


@pytest.mark.parametrize("person", [VIEWER, pytest.param(APPROVER, marks=pytest.mark.long)])
def test_python__loads(server: PeopleServer, acme: Tenant, tmp_path: Path, person: str) -> None:
    acme.put(1, "Production")
    with server.person(person):
        content, version = registry.load_production(
            "acme", MODEL, lambda folder: Path(folder, "model.bin").read_text()
        )
        assert (content, version.version) == (acme.mark, 1)
        # and as everybody knows it
        with WorkspaceContext("acme"):
            address = f"models:/{MODEL}@production"
            found = mlflow.artifacts.download_artifacts(
                address, dst_path=str(tmp_path), tracking_uri=server.url, registry_uri=server.url
            )
        assert Path(found, "model.bin").read_text() == acme.mark
    acme.put(1, "Staging")


def test_roles_of_a_tenant__are_the_administrators_to_give(server: PeopleServer, acme: Tenant) -> None:
    answer = acme.session(ADMIN).get("/api/3.0/mlflow/roles/list", params={"workspace": "acme"})
    role = {item["name"]: item["id"] for item in answer.json()["roles"]}
    assert set(Role) <= set(role)
    approval = {"resource_type": "registered_model_version", "permission": "MANAGE"}
    addition = {"role_id": role["engineer"], "resource_pattern": "*", **approval}
    own_model = {"resource_type": "registered_model", "resource_id": MODEL, "permission": "READ"}
    for person in (*MEMBERS, *OUTSIDERS):
        attempts: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "roles/assign", {"username": person, "role_id": role["approver"]}),
            ("POST", "roles/create", {"workspace": "acme", "name": "king"}),
            ("POST", "roles/permissions/add", addition),
            ("DELETE", "roles/delete", {"role_id": role["viewer"]}),
            ("DELETE", "roles/unassign", {"username": "anna", "role_id": role["approver"]}),
            ("POST", "users/permissions/grant", {"username": person, "resource_id": "*", **approval}),
            ("POST", "users/permissions/grant", {"username": "bert", **own_model}),
        ]
        for method, path, body in attempts:
            answer = acme.session(person).request(method, f"/api/3.0/mlflow/{path}", json=body)
            assert (person, path, answer.status_code) == (person, path, 403), answer.text
        with server.person(person), pytest.raises(ForbiddenError):
            users.grant(person, "acme", Role.APPROVER)
        with server.person(person), pytest.raises(ForbiddenError):
            users.add("somebody", "long-enough-to-be-taken")

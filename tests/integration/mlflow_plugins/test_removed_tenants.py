"""The end of a tenant, by MLflow's own client, REST and ours: rules, words, and nothing for the next one."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import requests
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.workspace import WorkspaceDeletionMode
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as StockStore
from support import registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from mlflow_plugins import database
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Stack

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
CASCADE = WorkspaceDeletionMode.CASCADE


@pytest.fixture(scope="module")
def running(
    empty_database: str, servers: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    """A server that can be killed, on SQLite and on PostgreSQL; each test has tenants of its own."""
    folder = tmp_path_factory.mktemp("removed")
    with registry_servers.running(empty_database, servers.start("s3"), folder) as server:
        yield server


@pytest.fixture
def server(
    running: registry_servers.Server, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> registry_servers.Server:
    """The same as the one of the settings."""
    for name, value in servers.start("s3").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.url)
    return running


@pytest.fixture
def acme(server: registry_servers.Server, tmp_path: Path) -> Tenant:
    """A tenant with one version in production, one archived and one in staging."""
    tenant = new_tenant(server.url)
    for number in range(3):
        tenant.register(tmp_path / "model", b"weights %d" % number)
    for version, stage in ((1, "Production"), (2, "Production")):
        assert tenant.stage(version, stage).status_code == 200
    for said in ("comments", "request"):
        path = f"/ai-hub/api/models/{MODEL}/versions/3/{said}"
        assert tenant.call("POST", path, json={"text": "lower MAE"}).status_code == 200
    return tenant


def delete(tenant: Tenant, **arguments: str) -> requests.Response:
    """MLflow's own call, with what ours adds."""
    return requests.delete(
        f"{tenant.url}/api/3.0/mlflow/workspaces/{tenant.name}", params=arguments, timeout=60
    )


def create(tenant: Tenant) -> requests.Response:
    return requests.post(f"{tenant.url}/api/3.0/mlflow/workspaces", json={"name": tenant.name}, timeout=60)


def release(tenant: Tenant) -> requests.Response:
    return requests.post(f"{tenant.url}/ai-hub/api/tenants/{tenant.name}/release", json={}, timeout=60)


def described(tenant: Tenant) -> dict[str, Any]:
    answer = requests.get(f"{tenant.url}/ai-hub/api/tenants/{tenant.name}", timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def files(tenant: Tenant) -> list[str]:
    return sorted(S3Folder(s3_client(), "ml-models", tenant.name).files())


def empty_production(tenant: Tenant) -> None:
    assert tenant.stage(2, "Archived").status_code == 200


def seen(tenant: Tenant) -> dict[str, int]:
    """Rows and files that every door shows of the tenant; a server's own default experiment is none."""
    models = tenant.call("GET", "/api/2.0/mlflow/registered-models/search").json()
    versions = tenant.call("GET", "/api/2.0/mlflow/model-versions/search").json()
    experiments = tenant.call("POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 100}).json()
    listed = tenant.call("GET", PROXY, params={"path": f"workspaces/{tenant.name}"}).json()
    registered = tenant.call("GET", PROXY, params={"path": f"workspaces/{tenant.name}/.models"}).json()
    trail = tenant.call("GET", f"/ai-hub/api/models/{MODEL}/transitions").json()
    said = tenant.call("GET", f"/ai-hub/api/models/{MODEL}/versions/3/comments").json()
    requested = tenant.call("GET", "/ai-hub/api/requests").json()
    page = tenant.call("GET", f"/lifecycle/{tenant.name}/{MODEL}")
    production = tenant.call(
        "GET", f"/ai-hub/api/models/{MODEL}/production", params={"at_ms": 2**42}
    ).status_code
    file = tenant.artifact("GET", f"workspaces/{tenant.name}/.models/{MODEL}/v1.0.1/data/model.bin")
    return {
        "models": len(models.get("registered_models", [])),
        "versions": len(versions.get("model_versions", [])),
        "experiments": len([e for e in experiments.get("experiments", []) if e["name"] != "Default"]),
        "run files": len(listed.get("files", [])),
        "registered files": len(registered.get("files", [])),
        "trail": len(trail.get("transitions", [])),
        "production": int(production == 200),
        "comments": len(said.get("comments", [])),
        "requests": len(requested["requests"]),
        "page": int("v1.0.1" in page.text),
        "file": int(file.status_code == 200),
        "objects": len(files(tenant)),
    }


def test_cascade__nothing_of_it_is_seen_by_the_next_of_that_name(
    server: registry_servers.Server, acme: Tenant, empty_database: str
) -> None:
    before = seen(acme)
    assert all(before.values()), before
    neighbour = new_tenant(server.url)
    client = MlflowClient(server.url)

    with pytest.raises(MlflowException, match=f"{MODEL} version 2 is in Production") as refused:
        client.delete_workspace(acme.name, mode=CASCADE)
    assert refused.value.get_http_status_code() == 409
    assert seen(acme) == before
    empty_production(acme)
    client.delete_workspace(acme.name, mode=CASCADE)
    assert files(acme) == []
    assert acme.name not in {workspace.name for workspace in client.list_workspaces()}

    again = create(acme)
    assert again.status_code == 409
    assert f"ai-hub tenants remove {acme.name}" in again.text
    assert release(acme).json()["step"] == "released"
    assert create(acme).status_code == 201
    assert not any(seen(acme).values()), seen(acme)
    assert neighbour.stages() == {}

    # the trail of the former one stays for auditors
    engine = sa.create_engine(empty_database.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(database.transitions).where(database.transitions.c.workspace == acme.name)
        ).all()
        steps = connection.execute(
            sa.select(database.removals)
            .where(database.removals.c.workspace == acme.name)
            .order_by(database.removals.c.id)
        ).all()
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            connection.execute(sa.delete(database.removals))
    engine.dispose()
    assert [row.to_stage for row in rows][-3:] == ["Deleted"] * 3
    assert [row.step for row in steps] == ["started", "removed", "released"]


def test_cascade__the_next_of_that_name__lives_its_own_life(acme: Tenant, tmp_path: Path) -> None:
    empty_production(acme)
    assert delete(acme, mode="CASCADE").status_code == 204
    assert release(acme).status_code == 200
    assert create(acme).status_code == 201
    with registry.tenant_scope(acme.name):
        acme.client.create_registered_model(MODEL)
        acme.experiment = acme.client.create_experiment("demand")
    assert acme.register(tmp_path / "model", b"other weights") == 1
    # the former version 1 had been in production
    assert acme.stage(1, "Archived").status_code == 200
    assert acme.stage(1, "Production").status_code == 409
    assert acme.stage(1, "Staging").status_code == 200
    file = acme.artifact("GET", f"workspaces/{acme.name}/.models/{MODEL}/v1.0.0/data/model.bin")
    assert file.content == b"other weights"
    assert len(registry.history(acme.name, MODEL)) == 3


def test_force__needs_a_reason__and_is_recorded(acme: Tenant) -> None:
    refusal = delete(acme, mode="CASCADE", force="true")
    assert (refusal.status_code, "reason" in refusal.text) == (400, True)
    described_before = described(acme)
    assert described_before["in_production"] == [f"{MODEL} version 2"]
    assert described_before["counts"]["files"] == len(files(acme)) > 0
    answer = requests.delete(
        f"{acme.url}/api/3.0/mlflow/workspaces/{acme.name}",
        params={"mode": "CASCADE", "force": "true", "reason": "the contract ended"},
        headers={"X-AI-Hub-User": "ada"},
        timeout=60,
    )
    assert answer.status_code == 204
    after = described(acme)
    removal = after["removal"]
    assert (removal["step"], removal["actor"], removal["reason"]) == ("removed", "ada", "the contract ended")
    assert removal["counts"] == described_before["counts"]
    assert (after["exists"], after["counts"]["files"], after["counts"]["models"]) == (False, 0, 0)


def test_keep__files_stay_and_nobody_gets_the_name(acme: Tenant) -> None:
    empty_production(acme)
    before = files(acme)
    assert delete(acme, mode="CASCADE", keep="true", reason="an auditor may ask").status_code == 204
    assert files(acme) == before
    for refusal in (create(acme), release(acme)):
        assert refusal.status_code == 409
    assert "an auditor may ask" in create(acme).text
    assert acme.artifact("GET", f"workspaces/{acme.name}/.models/{MODEL}/v1.0.1/MLmodel").status_code == 404
    # later, for good
    assert delete(acme, mode="CASCADE").status_code == 204
    assert files(acme) == []
    assert release(acme).status_code == 200
    assert create(acme).status_code == 201
    assert not any(seen(acme).values())


def test_restrict__what_is_not_empty__stays_with_words(acme: Tenant) -> None:
    refusal = delete(acme)
    assert refusal.status_code == 409
    assert "1 registered models" in refusal.text
    assert f"ai-hub tenants remove {acme.name}" in refusal.text
    assert acme.stages() == {1: "Archived", 2: "Production", 3: "Staging"}


def test_set_default__is_refused_with_words(acme: Tenant) -> None:
    before = seen(acme)
    refusal = delete(acme, mode="SET_DEFAULT")
    assert (refusal.status_code, "neither load nor return" in refusal.text) == (409, True)
    assert seen(acme) == before


def test_restrict__empty__goes(server: registry_servers.Server) -> None:
    tenant = new_tenant(server.url)
    assert delete(tenant).status_code == 409
    assert delete(tenant, mode="CASCADE").status_code == 204
    assert delete(tenant, mode="CASCADE").status_code == 404
    assert release(tenant).status_code == 200
    assert create(tenant).status_code == 201
    assert delete(tenant).status_code == 204


def test_unknown__is_404__and_default_is_nobodys_to_remove(acme: Tenant) -> None:
    url = f"{acme.url}/api/3.0/mlflow/workspaces"
    for name in ("nobody-here", "x" * 60):
        assert requests.delete(f"{url}/{name}", params={"mode": "CASCADE"}, timeout=60).status_code == 404
    assert requests.delete(f"{url}/default", params={"mode": "CASCADE"}, timeout=60).status_code == 400


def test_artifact_root__of_ones_own__is_refused(acme: Tenant) -> None:
    url = f"{acme.url}/api/3.0/mlflow/workspaces"
    body = {"name": "other-place", "default_artifact_root": "s3://elsewhere/models"}
    made = requests.post(url, json=body, timeout=60)
    changed = requests.patch(f"{url}/{acme.name}", json={"default_artifact_root": "s3://x/y"}, timeout=60)
    for refusal in (made, changed):
        assert (refusal.status_code, "default artifact root empty" in refusal.text) == (400, True)


def test_deleted_by_an_earlier_release__the_name_waits_for_what_it_left(
    acme: Tenant, empty_database: str
) -> None:
    former = StockStore(empty_database)
    former.delete_workspace(acme.name, mode=CASCADE)  # without force, a row in the trail, or the files
    former._engine.dispose()
    refusal = create(acme)
    assert (refusal.status_code, "without its files and audit trail" in refusal.text) == (409, True)
    assert files(acme)
    assert delete(acme, mode="CASCADE", reason="finish it").status_code == 204
    assert files(acme) == []
    assert release(acme).status_code == 200
    assert create(acme).status_code == 201
    assert not any(seen(acme).values())


def _killed_at(server: registry_servers.Server, tenant: Tenant, seconds: float) -> None:
    """Begin the removal, kill the server after so many seconds, and start it again."""

    def remove() -> None:
        with suppress(requests.ConnectionError):  # what its client sees
            delete(tenant, mode="CASCADE", force="true", reason="why")

    client = threading.Thread(target=remove)
    client.start()
    client.join(seconds)
    server.kill()
    client.join()
    server.start()


@pytest.mark.parametrize("part", [0.3, *(pytest.param(n / 10, marks=pytest.mark.long) for n in range(1, 10))])
def test_killed__the_same_call_goes_on(
    server: registry_servers.Server, acme: Tenant, tmp_path: Path, part: float
) -> None:
    whole = new_tenant(server.url)
    whole.register(tmp_path / "model")
    begun = time.monotonic()
    assert delete(whole, mode="CASCADE").status_code == 204
    _killed_at(server, acme, part * (time.monotonic() - begun))
    again = delete(acme, mode="CASCADE", force="true", reason="why")
    assert again.status_code in {204, 404}, again.text  # it may have ended in time
    assert described(acme)["removal"]["step"] == "removed"
    assert release(acme).status_code == 200
    assert create(acme).status_code == 201
    assert not any(seen(acme).values())


def test_registration_under_way__leaves_nothing_for_the_next(acme: Tenant, tmp_path: Path) -> None:
    with registry.tenant_scope(acme.name):
        started = [acme.log_model(tmp_path / f"model {number}", os.urandom(3_000_000)) for number in range(4)]
    empty_production(acme)
    answers: list[int] = []

    def register(run_id: str, source: str) -> None:
        body = {"name": MODEL, "source": source, "run_id": run_id}
        answers.append(acme.call("POST", "/api/2.0/mlflow/model-versions/create", json=body).status_code)

    clients = [threading.Thread(target=register, args=each) for each in started]
    for client in clients:
        client.start()
    assert delete(acme, mode="CASCADE").status_code == 204
    for client in clients:
        client.join()
    assert not {code for code in answers if code >= 500}, answers
    assert release(acme).status_code == 200
    assert create(acme).status_code == 201
    assert not any(seen(acme).values())

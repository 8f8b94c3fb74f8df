"""No door shows or changes anything of another tenant, whoever knocks and whatever workspace they name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.people_server import MODEL
from support.people_sweep import IRRELEVANT, ask, contents, known_of, without_twins

if TYPE_CHECKING:
    from support.people_server import PeopleServer, Tenant

V2: Final = "/api/2.0/mlflow"
PROXY: Final = "/api/2.0/mlflow-artifacts"
#: Who has no role in acme, and the workspace they name.
INTRUDERS: Final = [(person, place) for person in ("bert", "noor") for place in ("acme", "beta", None)]
_QUERIES: Final = {
    "run": 'mlflowGetRun(input: {runId: "%(run)s"}) {run {data {params {key value}}}}',
    "experiment": 'mlflowGetExperiment(input: {experimentId: "%(experiment)s"}) {experiment {tags {value}}}',
    "runs": 'mlflowSearchRuns(input: {experimentIds: ["%(experiment)s"]}) {runs {data {tags {key value}}}}',
    "versions": "mlflowSearchModelVersions(input: {}) {modelVersions {description}}",
}


def _reads(tenant: Tenant) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Requests whose answers show the tenant's mark to its own people."""
    folder = f"workspaces/{tenant.name}"
    run_file = f"{folder}/{tenant.experiment}/{tenant.run}/artifacts/model/model.bin"
    version = {"name": MODEL, "version": "3"}
    found = {
        "experiment": ("GET", f"{V2}/experiments/get", {"params": {"experiment_id": tenant.experiment}}),
        "experiment by name": (
            "GET",
            f"{V2}/experiments/get-by-name",
            {"params": {"experiment_name": f"loads-of-{tenant.name}"}},
        ),
        "experiments": ("POST", f"{V2}/experiments/search", {"json": {"max_results": 100}}),
        "run": ("GET", f"{V2}/runs/get", {"params": {"run_id": tenant.run}}),
        "runs": ("POST", f"{V2}/runs/search", {"json": {"experiment_ids": [tenant.experiment]}}),
        "logged model": ("GET", f"{V2}/logged-models/{tenant.logged}", {}),
        "logged models": (
            "POST",
            f"{V2}/logged-models/search",
            {"json": {"experiment_ids": [tenant.experiment]}},
        ),
        "model": ("GET", f"{V2}/registered-models/get", {"params": {"name": MODEL}}),
        "models": ("GET", f"{V2}/registered-models/search", {}),
        "latest": ("POST", f"{V2}/registered-models/get-latest-versions", {"json": {"name": MODEL}}),
        "version": ("GET", f"{V2}/model-versions/get", {"params": version}),
        "version by alias": (
            "GET",
            f"{V2}/registered-models/alias",
            {"params": {"name": MODEL, "alias": "staging"}},
        ),
        "versions": ("GET", f"{V2}/model-versions/search", {}),
        "file of a run": (
            "GET",
            "/get-artifact",
            {"params": {"run_uuid": tenant.run, "path": "model/model.bin"}},
        ),
        "file of a version": (
            "GET",
            "/model-versions/get-artifact",
            {"params": {**version, "path": "model.bin"}},
        ),
        "run by proxy": ("GET", f"{PROXY}/artifacts/{run_file}", {}),
        "version by proxy": ("GET", f"{PROXY}/artifacts/{folder}/.models/{MODEL}/v1.0.0/model.bin", {}),
        "trail": ("GET", f"/ai-hub/api/models/{MODEL}/transitions", {}),
        "page": ("GET", f"/lifecycle/{tenant.name}/{MODEL}", {}),
        "production": ("GET", f"/ai-hub/api/models/{MODEL}/production", {"params": {"at_ms": 2**42}}),
    }
    for name, query in _QUERIES.items():
        text = "query q {%s}" % (query % {"run": tenant.run, "experiment": tenant.experiment})
        found[f"graphql {name}"] = ("POST", "/graphql", {"json": {"query": text, "operationName": "q"}})
    return found


def test_reads(server: PeopleServer, acme: Tenant, beta: Tenant) -> None:
    for tenant, own in ((acme, "vera"), (beta, "bert")):
        tenant.put(1, "Production")
        session = tenant.session(own)
        shown = {
            name: session.request(*request[:2], **request[2]) for name, request in _reads(tenant).items()
        }
        blind = [name for name, answer in shown.items() if tenant.mark not in answer.text]
        assert blind == [], "these requests prove nothing"
    leaks: list[tuple[str, str | None, str]] = []
    asked = 0
    # both ways: anna knows beta's numbers, too
    for victim, intruders in (
        (acme, INTRUDERS),
        (beta, [("anna", "acme"), ("anna", "beta"), ("anna", None)]),
    ):
        for person, place in intruders:
            session = server.session(person, place)
            for name, (method, path, arguments) in _reads(victim).items():
                answer = session.request(method, path, **arguments)
                asked += 1
                assert answer.status_code < 500, (name, answer.text)
                if victim.mark in answer.text:
                    leaks.append((person, place, name))
    assert leaks == []
    assert asked == 9 * len(_reads(acme)) > 200


@pytest.mark.parametrize("count", [350, pytest.param(700, marks=pytest.mark.long)])
def test_every_route__asked_with_everything_a_stranger_may_know(
    server: PeopleServer, acme: Tenant, routes: list[tuple[str, str]], count: int
) -> None:
    # both people at all that the pages ask takes twice as long
    twins = set(routes) - set(without_twins(routes)) if count < 700 else set()
    before = contents(acme)
    known = known_of(acme)
    asked, leaks = 0, []
    for person, place, skipped in (("bert", "acme", IRRELEVANT), ("noor", None, f"{IRRELEVANT}|^/api/")):
        session = server.session(person, place)
        for method, path in routes:
            if person == "bert" and (method, path) in twins:
                continue
            if method not in {"HEAD", "OPTIONS"} and not re.search(skipped, path):
                asked += 1
                if acme.mark in ask(session, method, path, known).text:
                    leaks.append((person, place, method, path))
    assert leaks == []
    assert asked > count
    assert contents(acme) == before
    # the same requests do show it to whom it belongs
    reader = acme.session("vera")
    reads = [path for method, path in routes if method == "GET" and path.startswith(("/api/2.0/", "/ai-hub"))]
    assert sum(acme.mark in ask(reader, "GET", path, known).text for path in reads) >= 8


def test_writes(server: PeopleServer, acme: Tenant) -> None:
    before = contents(acme)
    file = f"workspaces/acme/{acme.experiment}/{acme.run}/artifacts/model/model.bin"
    registered = f"workspaces/acme/.models/{MODEL}/v1.0.0/model.bin"
    version = {"name": MODEL, "version": "1"}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        *(("PUT", f"{PROXY}/artifacts/{path}", {"data": b"evil"}) for path in (file, registered)),
        *(("DELETE", f"{PROXY}/artifacts/{path}", {}) for path in (file, registered)),
        *(
            ("POST", f"{PROXY}/mpu/create/{path}", {"json": {"path": path, "num_parts": 1}})
            for path in (file, registered)
        ),
        *(("GET", f"{PROXY}/presigned/{path}", {}) for path in (file, registered)),
        ("POST", f"{V2}/runs/log-metric", {"json": {"run_id": acme.run, "key": "mae", "value": 0}}),
        ("POST", f"{V2}/runs/set-tag", {"json": {"run_id": acme.run, "key": "mark", "value": "evil"}}),
        ("POST", f"{V2}/runs/delete", {"json": {"run_id": acme.run}}),
        ("POST", f"{V2}/experiments/delete", {"json": {"experiment_id": acme.experiment}}),
        ("POST", f"{V2}/runs/create", {"json": {"experiment_id": acme.experiment}}),
        ("POST", f"{V2}/model-versions/set-tag", {"json": {**version, "key": "mark", "value": "evil"}}),
        ("PATCH", f"{V2}/model-versions/update", {"json": {**version, "description": "evil"}}),
        ("DELETE", f"{V2}/registered-models/delete", {"json": {"name": MODEL}}),
        ("POST", f"{V2}/logged-models", {"json": {"experiment_id": acme.experiment}}),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate", {"json": {}}),
        # registering from another tenant's files
        (
            "POST",
            f"{V2}/model-versions/create",
            {"json": {"name": MODEL, "source": f"mlflow-artifacts:/{file}", "run_id": acme.run}},
        ),
        ("POST", f"{V2}/webhooks", {"json": {"name": "spy", "url": "https://evil.example", "events": []}}),
    ]
    for person, place in INTRUDERS:
        if place == "beta":
            continue  # the names mean beta's own there; the sweep above covers numbers and paths
        for method, path, arguments in requests:
            answer = server.session(person, place).request(method, path, **arguments)
            assert (person, place, path, answer.status_code // 100) == (person, place, path, 4), answer.text
    assert contents(acme) == before


def test_names_of_tenants_and_people__stay_within(server: PeopleServer) -> None:
    for person, visible in (("bert", ["beta"]), ("noor", []), ("vera", ["acme"])):
        with server.session(person) as session:
            listed = session.get("/api/3.0/mlflow/workspaces").json().get("workspaces", [])
            assert sorted(item["name"] for item in listed) == visible
            assert session.get("/api/2.0/mlflow/users/list").status_code == 403
            assert session.get("/api/3.0/mlflow/workspaces/acme").status_code == 403


@pytest.mark.parametrize("path", [f"{V2}/registered-models/get", f"/ai-hub/api/models/{MODEL}/transitions"])
def test_names_of_tenants__cannot_be_guessed(server: PeopleServer, path: str) -> None:
    for person, status in ((None, 401), ("noor", 403), ("bert", 403)):
        present, absent = (server.session(person, tenant).get(path) for tenant in ("acme", "nowhere"))
        assert (present.status_code, absent.status_code) == (status, status)
        assert present.text.replace("acme", "nowhere") == absent.text


def test_probing_the_next_experiment__locks_nobody_out(acme: Tenant) -> None:
    created = acme.session("emil").post(f"{V2}/experiments/create", json={"name": "before"})
    following = str(int(created.json()["experiment_id"]) + 1)
    for person in ("bert", "emil"):
        answer = acme.session(person).get(f"{V2}/experiments/get", params={"experiment_id": following})
        assert answer.status_code in {403, 404}
    created = acme.session("emil").post(f"{V2}/experiments/create", json={"name": "after"})
    assert created.json()["experiment_id"] == following
    answer = acme.session("vera").get(f"{V2}/experiments/get", params={"experiment_id": following})
    assert answer.status_code == 200, answer.text

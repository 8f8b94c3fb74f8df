"""Requests for promotion and comments by every role, through every door."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.html_pages import Parsed
from support.people_server import MODEL

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.people_server import PeopleServer, Tenant

API = f"/ai-hub/api/models/{MODEL}/versions"


@pytest.fixture
def version(acme: Tenant, tmp_path: Path) -> int:
    return acme.register("emil", tmp_path / "model")


def _waiting(acme: Tenant, person: str, version: int) -> list[str]:
    answer = acme.session(person).get("/ai-hub/api/requests")
    assert answer.status_code == 200
    return [row["text"] for row in answer.json()["requests"] if row["version"] == version]


#: Doors of a version's thread.
WRITES = (("POST", "comments"), ("POST", "request"), ("POST", "retraining"), ("DELETE", "request?text=x"))


def test_engineer_requests__approver_finds_it_and_promotes(
    acme: Tenant, version: int, run: Callable[..., tuple[int, str, str]]
) -> None:
    with acme.server.person("emil"):
        arguments = ("--tenant", "acme", "--version", str(version))
        status, out, err = run("request", MODEL, *arguments, "--reason", "lower MAE on cold days")
        assert (status, out) == (0, f"{MODEL} {version} (v1.0.{version - 1}): promotion requested\n"), err
        assert run("comment", MODEL, "see the run's plots", *arguments)[0] == 0
    with acme.server.person("anna"):
        status, out, _ = run("requests", "--tenant", "acme", "--json")
        (row,) = (row for row in json.loads(out) if row["version"] == version)
        assert (row["actor"], row["actor_source"], row["text"]) == (
            "emil",
            "authenticated",
            "lower MAE on cold days",
        )
        assert "lower MAE on" in run("requests", "--tenant", "acme")[1]
        assert "see the run's plots" in run("comments", MODEL, *arguments)[1]
        session = acme.server.session("anna")
        listed = Parsed.of(session.get("/lifecycle/acme")).text.split("Requests for promotion")[1]
        assert "lower MAE on cold days" in listed.split("All models")[0]
        assert "emil requests its promotion" in Parsed.of(session.get(f"/lifecycle/acme/{MODEL}")).text
        # MLflow's own door has no field for a reason
        registry.promote("acme", MODEL, version)
        newest = registry.history("acme", MODEL, version=version)[0]
    assert newest.reason == "lower MAE on cold days (requested by emil)"
    assert _waiting(acme, "anna", version) == []
    trail = Parsed.of(session.get(f"/lifecycle/acme/{MODEL}")).text.split("Audit trail")[1]
    assert "promotion requested" in trail
    acme.put(version, "Archived")


def test_approver_declines__and_engineer_withdraws(acme: Tenant, version: int) -> None:
    page = f"/lifecycle/acme/{MODEL}/versions/{version}"
    for person, text in (("anna", "not before the audit"), ("emil", "found a leak")):
        fields = {"action": "request", "reason": "lower MAE"}
        assert acme.server.session("emil").post(page, data=fields).status_code == 200
        assert _waiting(acme, "vera", version) == ["lower MAE"]
        answer = acme.server.session(person).post(page, data={"action": "withdraw", "reason": text})
        assert answer.status_code == 200
        assert f"Request ended by {person}" in Parsed.of(answer).text
        assert _waiting(acme, "vera", version) == []
    answer = acme.server.session("emil").post(page, data={"action": "withdraw", "reason": "again"})
    assert answer.status_code == 409
    shown = Parsed.of(answer).text
    assert "Nobody asks for the promotion" in shown
    assert "You gave the reason: again" in shown
    acme.put(version, "Archived")


def test_viewer__reads_and_says_nothing(acme: Tenant, version: int) -> None:
    page, session = f"/lifecycle/acme/{MODEL}/versions/{version}", acme.session("vera")
    assert acme.session("emil").post(f"{API}/{version}/comments", json={"text": "hm"}).status_code == 200
    shown = session.get(page)
    assert "Comment by emil" in Parsed.of(shown).text
    assert "actions" not in str(Parsed.of(shown).forms)
    for action in ("comment", "request", "withdraw"):
        answer = session.post(page, data={"action": action, "reason": "because I can"})
        assert answer.status_code == 403
        assert f"You may not update model {MODEL}." in Parsed.of(answer).text
    for method, path in WRITES:
        answer = session.request(method, f"{API}/{version}/{path}", json={"text": "because I can"})
        assert answer.status_code == 403
    rows = session.get(f"{API}/{version}/comments").json()["comments"]
    assert [row["text"] for row in rows] == ["hm"]
    acme.put(version, "Archived")


@pytest.mark.parametrize("person", ["bert", "noor", None])
def test_another_tenant__neither_reads_nor_writes(
    server: PeopleServer, acme: Tenant, beta: Tenant, version: int, person: str | None
) -> None:
    del beta
    secret = f"secret of {acme.mark}"
    said = acme.session("emil").post(f"{API}/{version}/request", json={"text": secret})
    assert said.status_code == 200
    page = f"/lifecycle/acme/{MODEL}"
    for session in (server.session(person), server.session(person, "acme"), server.session(person, "beta")):
        for path in (f"{page}/versions/{version}", f"{page}/compare?left=1&right={version}", page):
            answer = session.get(path)
            assert answer.status_code in {401, 403, 404}
            assert acme.mark not in answer.text
        for path in ("/ai-hub/api/requests", f"{API}/{version}/comments"):
            assert acme.mark not in session.get(path).text
        for method, path in WRITES:
            session.request(method, f"{API}/{version}/{path}", json={"text": "not mine"})
        fields = {"action": "comment", "reason": "not mine"}
        assert session.post(f"{page}/versions/{version}", data=fields).status_code in {401, 403, 404}
    rows = acme.session("anna").get(f"{API}/{version}/comments").json()["comments"]
    assert [row["text"] for row in rows] == [secret]
    acme.put(version, "Archived")


def test_card_and_comparison__say_what_is_known(acme: Tenant, version: int, tmp_path: Path) -> None:
    other = acme.register("emil", tmp_path / "other")
    session = acme.server.session("vera")
    shown = Parsed.of(session.get(f"/lifecycle/acme/{MODEL}/versions/{version}")).text
    for words in ("Frameworklightgbm", "Trained by", "emil", "mark", acme.mark, f"mae-{acme.mark}"):
        assert words in shown
    compared = session.get(f"/lifecycle/acme/{MODEL}/compare?left={version}&right={other}")
    assert compared.status_code == 200
    text = " ".join(Parsed.of(compared).text.split())
    assert f"mae-{acme.mark} 1.5 1.5 equal" in text
    assert "Parameters Both have the same." in text
    for made in (version, other):
        acme.put(made, "Archived")

"""Requests to train anew over HTTP: listed, shown and decided by who may."""

from __future__ import annotations

import secrets
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from support.service_server import running_service

from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.db.transactions import transaction
from ai_hub.forecasting import retraining
from ai_hub.jobs import queue
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def owner(database: str) -> str:
    del database
    return f"tenant-{secrets.token_hex(5)}"


@pytest.fixture(scope="module")
def call(owner: str) -> Iterator[Callable[..., httpx.Response]]:
    name = f"key-{secrets.token_hex(4)}"
    _, key = api_keys.create(name, [owner], ALL_SCOPES, created_by="test")
    with running_service(Settings(), ServiceSettings(database_timeout_s=60)) as url:

        def send(method: str, path: str = "", **arguments: Any) -> httpx.Response:
            headers = {"X-API-Key": str(key)}
            return httpx.request(
                method, f"{url}/ai/retraining{path}", headers=headers, timeout=60, **arguments
            )

        yield send


def proposed(owner: str) -> retraining.RetrainRequest:
    version: Any = SimpleNamespace(
        tenant=owner, model=f"model-{secrets.token_hex(4)}", version=4, semantic_version="v1.2.0"
    )
    return retraining.propose_by_hand(Settings(), version, by="ann", reason="new heat pumps")


def test_request__is_listed_approved_once_and_has_a_job(
    call: Callable[..., httpx.Response], owner: str
) -> None:
    request = proposed(owner)
    listed = call("GET", params={"model_name": request.model, "status": "proposed"}).json()
    (found,) = listed["requests"]
    assert found == call("GET", f"/{request.request_id}").json()
    assert (found["tenant_id"], found["model_name"], found["version"]) == (owner, request.model, 4)
    assert (found["causes"], found["evidence"]) == (
        ["request"],
        {"request": {"by": "ann", "reason": "new heat pumps"}},
    )
    decision = {"json": {"reason": "go"}}
    approved = call("POST", f"/{request.request_id}/approve", **decision)
    assert approved.status_code == 200, approved.text
    assert (approved.json()["status"], approved.json()["reason"]) == ("approved", "go")
    assert str(approved.json()["decided_by"]).startswith("key-")
    with transaction(Settings(), owner) as connection:
        job = queue.find(connection, owner, request.request_id)
    assert (job.status, job.arguments) == ("pending", {"model": request.model})
    for path in ("approve", "reject"):
        again = call("POST", f"/{request.request_id}/{path}", **decision)
        assert (again.status_code, "is approved already" in again.text) == (409, True)


def test_request__is_rejected_with_a_reason(call: Callable[..., httpx.Response], owner: str) -> None:
    request = proposed(owner)
    path = f"/{request.request_id}/reject"
    assert call("POST", path, json={"reason": ""}).status_code == 422
    assert call("POST", path, json={"reason": "a\0b"}).status_code == 422
    assert call("POST", path, json={"reason": "holidays"}).json()["status"] == "rejected"
    assert call("GET", params={"model_name": request.model, "status": "proposed"}).json()["requests"] == []


def test_unknown_request__is_a_404(call: Callable[..., httpx.Response]) -> None:
    path = f"/{uuid4()}"
    for method, suffix, body in (("GET", "", None), *(("POST", each, {"reason": "x"}) for each in DECISIONS)):
        assert call(method, path + suffix, json=body).status_code == 404


DECISIONS = ("/approve", "/reject")

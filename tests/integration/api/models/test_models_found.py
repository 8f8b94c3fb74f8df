"""What there is and what there is not, in a list and in errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.model_service import ACME, ModelService, upload

from ai_hub.registry import server

if TYPE_CHECKING:
    import pytest


def test_unknown_things__get_404_and_what_there_is(service: ModelService, model: str) -> None:
    body = upload(ACME, model, version="v2.0.0")
    assert service.register("rita", body).status_code == 201
    missing = service.call("vera", "GET", f"/{ACME}:{model}:v9.9.9")
    assert (missing.status_code, missing.json()["hint"]) == (
        404,
        "Did you mean v2.0.0? It has: v2.0.0 (Staging).",
    )
    assert service.call("dora", "DELETE", f"/{ACME}:{model}:7").status_code == 404
    assert service.promote("paul", f"{ACME}:other:1", "production").status_code == 404
    nobody = service.call("vera", "GET", "", params={"tenant_id": ACME, "model_name": "other"})
    assert nobody.status_code == 404
    assert model in nobody.json()["hint"]
    for artifact in (
        {"type": "run", "run_id": "0" * 32},
        {"type": "logged_model", "model_id": "m-" + "0" * 32},
    ):
        answer = service.register("rita", upload(ACME, f"{model}-new", artifact=artifact))
        assert answer.status_code == 404, answer.text
        gone = service.call("vera", "GET", "", params={"tenant_id": ACME, "model_name": f"{model}-new"})
        assert gone.status_code == 404
    for answer in (
        service.call("olga", "GET", "", params={"tenant_id": "nowhere"}),
        service.call("olga", "GET", "/nowhere:demand:1"),
        service.register("olga", upload("nowhere", model)),
    ):
        assert answer.status_code == 404
        assert "There is no tenant nowhere" in answer.json()["message"]
        assert "--new-tenant" in answer.json()["hint"]


def test_list__is_newest_first_and_costs_one_call(
    service: ModelService, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [service.register("rita", upload(ACME, model)).json()["model_id"] for _ in range(3)]
    service.promote("paul", ids[1], "production")
    calls: list[str] = []
    send = server._send

    def counting(method: str, path: str, *arguments: Any, **options: Any) -> Any:
        calls.append(f"{method} {path}")
        return send(method, path, *arguments, **options)

    monkeypatch.setattr(server, "_send", counting)
    query = {"tenant_id": ACME, "model_name": model}
    for path in ("", "/"):
        found = service.call("vera", "GET", path, params=query).json()
        assert [each["model_id"] for each in found["models"]] == ids[::-1]
        assert (found["total"], found["tenant_id"]) == (3, ACME)
        assert {each["model_size_bytes"] > 0 for each in found["models"]} == {True}
    assert len(calls) == 2
    assert service.call("vera", "GET", "", params={**query, "limit": 1}).json()["total"] == 3
    staged = service.call("vera", "GET", "", params={**query, "stage": "STAGING", "limit": 1}).json()
    assert ([each["model_id"] for each in staged["models"]], staged["total"]) == (([ids[2]], 2))
    for limit in (0, 1001):
        assert service.call("vera", "GET", "", params={**query, "limit": limit}).status_code == 422

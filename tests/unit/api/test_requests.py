from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from ai_hub import metrics
from ai_hub.access.principal import Principal, Scope
from ai_hub.api import errors, observability
from ai_hub.api.app import create_app
from ai_hub.api.observability import RequestLog
from ai_hub.api.services import permit
from ai_hub.settings import ServiceSettings, Settings

SCOPE = {"state": {"request_id": "id"}}


def new_app() -> FastAPI:
    app = FastAPI()
    errors.install(app)

    @app.get("/fine/{name}")
    async def fine(name: str) -> str:
        structlog.get_logger("inside").info("at work", name=name)
        return name

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("hush: the password is 1234")

    app.add_middleware(RequestLog)
    return app


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://service"
    )


def ask(app: FastAPI, path: str, **arguments: object) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client(app) as http:
            return await http.get(path, **arguments)  # type: ignore[arg-type]

    return asyncio.run(run())


def test_request__gets_an_id_that_is_in_its_answer_and_its_log_lines() -> None:
    app = new_app()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = ask(app, "/fine/one")
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", request_id)
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("at work", request_id),
        ("request.answered", request_id),
    ]
    assert lines[-1]["route"] == "/fine/{name}"
    assert lines[-1]["status"] == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-17.b_2", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False), ("ä", False)],
)
def test_request_id__of_the_caller__kept_if_it_is_harmless(given: str, kept: bool) -> None:
    app = new_app()
    answer = ask(app, "/fine/one", headers={"X-Request-ID": given.encode()})
    assert (answer.headers["x-request-id"] == given) is kept


def test_defect__is_a_readable_500_and_its_text_stays_in_the_log() -> None:
    app = new_app()
    with capture_logs() as lines:
        answer = ask(app, "/broken")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "internal",
        "message": "The service failed; its log says why.",
        "hint": "Report it with the request id.",
        "request_id": answer.headers["x-request-id"],
    }
    assert [line["event"] for line in lines] == ["request.failed", "request.answered"]
    assert lines[-1]["log_level"] == "error"


def test_unknown_path__is_a_problem_too() -> None:
    app = new_app()
    answer = ask(app, "/nowhere")
    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_metrics__count_by_endpoint__never_by_what_the_caller_makes_up() -> None:
    app = new_app()

    def value(method: str, route: str, status: str) -> float:
        labels = {"method": method, "route": route, "status": status}
        return REGISTRY.get_sample_value("ai_hub_http_requests_total", labels) or 0.0

    async def run() -> None:
        async with client(app) as http:
            await http.get("/fine/one")
            await http.get("/fine/two")
            await http.request("BREW", "/coffee-7")

    metrics.flush()
    before = value("GET", "/fine/{name}", "200"), value("other", "none", "404")
    asyncio.run(run())
    metrics.flush()
    text = observability.exposition().decode()
    assert value("GET", "/fine/{name}", "200") == before[0] + 2
    assert value("other", "none", "404") == before[1] + 1
    assert "coffee-7" not in text
    assert "BREW" not in text


def test_server_down__says_which__and_neither_where_it_is_nor_what_it_said() -> None:
    down = errors.ServiceDownError("TimescaleDB", "10.1.2.3:5432", "password of ai_hub is wrong")
    answer = errors.answer(down, SCOPE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert json.loads(answer.body)["message"] == "TimescaleDB does not answer."  # type: ignore[arg-type]
    assert b"10.1.2.3" not in answer.body
    assert b"password" not in answer.body


def test_kinds__every_error_has_a_status_below_600_and_a_body() -> None:
    for known, status, kind in errors.KINDS:
        assert 400 <= status < 600
        if known.__init__ is errors.AiHubError.__init__ and kind != "unavailable":
            answer = errors.answer(known("what", hint="do"), SCOPE)
            assert json.loads(answer.body) == {  # type: ignore[arg-type]
                "error": kind,
                "message": "what",
                "hint": "do",
                "request_id": "id",
            }


def test_log__of_a_refused_request__says_who_what_and_why() -> None:
    app = FastAPI()
    errors.install(app)
    router = APIRouter(prefix="/ai/things")

    @router.delete("/{name}")
    async def delete(request: Request, name: str) -> None:
        caller = Principal("trainer", frozenset({"city-works"}), frozenset(), identity="k2x7ab3wq9dz")
        request.scope["state"]["principal"] = caller
        permit(request, caller, Scope.MODELS_DELETE, "city-works", model=name, stage=None)

    app.include_router(router)
    app.add_middleware(RequestLog)
    with capture_logs() as lines:
        asyncio.run(_deleted(app, "/ai/things/one"))
        asyncio.run(_deleted(app, "/ai/things"))
    refused, unknown = lines
    assert refused["route"] == "/ai/things/{name}"
    assert {name: refused[name] for name in ("tenant", "model", "caller", "key_id", "client", "path")} == {
        "tenant": "city-works",
        "model": "one",
        "caller": "trainer",
        "key_id": "k2x7ab3wq9dz",
        "client": "127.0.0.1",
        "path": "/ai/things/one",
    }
    assert "stage" not in refused
    assert refused["reason"] == "forbidden: Your key or token lacks the scope models:delete."
    assert (unknown["route"], unknown["reason"]) == ("none", "not_found: Not Found")


async def _deleted(app: FastAPI, path: str) -> None:
    async with client(app) as http:
        await http.delete(path)


def test_log__of_a_request_refused_before_its_endpoint__has_the_key_id_and_the_whole_route() -> None:
    app = create_app(ServiceSettings(), Settings())
    key = f"aih_{'a' * 12}_{'b' * 43}"

    async def run() -> None:
        async with app.router.lifespan_context(app), client(app) as http:
            await http.get("/ai/models/city-works:demand:v1.2.0", headers={"X-API-Key": f"{key}x"})
            await http.get("/ai/models/city-works:demand:v1.2.0", headers={"X-API-Key": key})

    with capture_logs() as lines:
        asyncio.run(run())
    malformed, unknown = (line for line in lines if line["event"] == "request.answered")
    assert malformed["route"] == unknown["route"] == "/ai/models/{model_id}"
    assert (malformed["key_id"], unknown["key_id"]) == (None, "a" * 12)
    assert malformed["reason"].startswith("unauthenticated: ")
    assert key not in str(lines)


def test_cors__only_the_origins_of_the_setting__and_before_any_key() -> None:
    def asked(origins: str, origin: str) -> httpx.Response:
        app = create_app(ServiceSettings(cors_origins=origins), Settings())
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key,content-type",
        }

        async def run() -> httpx.Response:
            async with app.router.lifespan_context(app), client(app) as http:
                return await http.options("/ai/features/get", headers=headers)

        return asyncio.run(run())

    allowed = asked("https://a.example, https://b.example", "https://b.example")
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://b.example")
    for origins in ("https://a.example", ""):
        assert "access-control-allow-origin" not in asked(origins, "https://b.example").headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_of_another_type__hint_names_the_header(kind: str) -> None:
    app = FastAPI()
    errors.install(app)

    @app.post("/things")
    async def post(body: dict[str, str]) -> None:
        del body

    async def run() -> httpx.Response:
        async with client(app) as http:
            return await http.post(
                "/things", content=b'{"a": "b"}', headers={"Content-Type": kind} if kind else {}
            )

    answer = asyncio.run(run())
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["hint"]

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import threading
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

import ai_hub
from ai_hub.api.schemas.features import FeatureSource
from ai_hub.client import (
    AsyncProductionModel,
    BusyError,
    DegradedError,
    ExportFailedError,
    KeyRefusedError,
    UnavailableError,
    http,
)
from ai_hub.client.predictions import Prediction
from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    ServiceDownError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[[Callable[[Any], Any]], Any]

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEY = "ahk_0123456789abcdef"
ROW = {
    "asset_id": "meter-008",
    "features": {"hour_of_day": 12, "lag_1h": None},
    "feature_count": 1,
    "status": {"hour_of_day": "PRESENT", "lag_1h": "UNAVAILABLE"},
    "hour": "2026-11-25T12:00:00Z",
    "source": "calendar",
    "degraded": True,
    "computed_at": "2026-11-25T12:00:01Z",
}
HEAD = {"tenant_id": "city-works", "timestamp": "2026-11-25T12:00:01Z"}
ONE = HEAD | ROW
MANY = HEAD | {"results": [ROW], "total": 1, "degraded": True, "computed_at": "2026-11-25T12:00:01Z"}
JOB = {
    "export_id": "0f2c6a52-9b1e-4a0e-8a50-3f4f0a6f7d55",
    "tenant_id": "city-works",
    "feature_set": "forecast_basic",
    "start_time": "2026-11-01T00:00:00Z",
    "end_time": "2026-11-02T00:00:00Z",
    "status": "running",
    "progress": 0.5,
    "storage_path": None,
    "row_count": None,
    "file_size_bytes": None,
    "file_size_mb": None,
    "sha256": None,
    "message": "half of it",
    "created_at": "2026-11-25T12:00:00Z",
}


class Service:
    """Answers from a list, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def bodies(self) -> list[Any]:
        return [json.loads(request.content) if request.content else None for request in self.requests]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    connection = http.client_arguments
    # reading the certificates takes longer than a test
    more = {"transport": httpx.MockTransport(service), "verify": False}
    monkeypatch.setattr(http, "client_arguments", lambda options: connection(options) | more)
    return service


def _sync(use: Callable[[Any], Any]) -> Any:
    with ai_hub.Client("http://hub.test", api_key=KEY, tenant="city-works") as client:
        return use(client)


def _async(use: Callable[[Any], Any]) -> Any:
    async def run() -> Any:
        async with ai_hub.AsyncClient("http://hub.test", api_key=KEY, tenant="city-works") as client:
            return await use(client)

    return asyncio.run(run())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


def _answer(status: int = 200, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


def _problem(status: int, **headers: str) -> httpx.Response:
    body = {"error": "kind", "message": "What is wrong.", "hint": "What to do.", "request_id": "id-7"}
    return _answer(status, body, **headers)


def test_features__of_one__is_one_request(service: Service, ask: Ask) -> None:
    service.answers = [_answer(body=ONE)]
    found = ask(lambda client: client.features("meter-008", "forecast_basic", at=NOON, lookback_hours=24))
    assert found.features == {"hour_of_day": 12, "lag_1h": None}
    assert found.status["lag_1h"] == "UNAVAILABLE"
    assert (found.hour, found.degraded) == (NOON, True)
    (request,) = service.requests
    assert (request.method, request.url.path) == ("POST", "/ai/features/get")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert len(request.headers["X-Request-ID"]) == 16
    assert service.bodies() == [
        {
            "tenant_id": "city-works",
            "asset_id": "meter-008",
            "feature_set": "forecast_basic",
            "timestamp": "2026-11-25T12:00:00+00:00",
            "lookback_hours": 24,
        }
    ]


def test_features__of_many__names_those_asked_for(service: Service, ask: Ask) -> None:
    service.answers = [_answer(body=MANY)]
    found = ask(lambda client: client.features(("meter-008",), feature_names=["hour_of_day", "lag_1h"]))
    assert [row.asset_id for row in found.results] == ["meter-008"]
    assert service.bodies() == [
        {"tenant_id": "city-works", "asset_ids": ["meter-008"], "feature_names": ["hour_of_day", "lag_1h"]}
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadInputError),
        (401, KeyRefusedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, BadInputError),
        (422, BadInputError),
        (429, BusyError),
        (500, AiHubError),
    ],
)
def test_refusal__is_not_repeated_and_keeps_text_hint_and_id(
    service: Service, ask: Ask, status: int, kind: type[AiHubError]
) -> None:
    service.answers = [_problem(status)]
    with pytest.raises(kind) as refusal:
        ask(lambda client: client.features("meter-008"))
    assert str(refusal.value) == "What is wrong.\nWhat to do."
    assert refusal.value.request_id == "id-7"
    assert "request id id-7" in "".join(traceback.format_exception(refusal.value))
    assert KEY not in "".join(traceback.format_exception(refusal.value))
    assert len(service.requests) == 1


def test_refusal__of_a_form__tells_each_field(service: Service, ask: Ask) -> None:
    details = [{"field": "body.lookback_hours", "problem": "Input should be less than or equal to 8760"}]
    service.answers = [_answer(422, {"message": "The request is malformed.", "details": details})]
    with pytest.raises(BadInputError, match=r"malformed\.\nbody\.lookback_hours: Input should be less"):
        ask(lambda client: client.features("meter-008", lookback_hours=10_000))


@pytest.mark.parametrize(
    "details",
    ["a text", 5, {"field": "a"}, [1, "text", None, {"field": "a"}, ["field", "problem"]]],
    ids=["text", "number", "object", "list"],
)
def test_refusal__of_somebody_else__keeps_its_text(service: Service, ask: Ask, details: Any) -> None:
    service.answers = [_answer(400, {"message": "No.", "details": details})]
    with pytest.raises(BadInputError) as refusal:
        ask(lambda client: client.features("meter-008"))
    assert refusal.value.message == "No."


@pytest.mark.parametrize(
    ("missing", "more", "says"),
    [
        (("lag_1h", "lag_24h"), 0, "Asset a has no value for lag_1h, lag_24h."),
        ((), 0, "Servers behind the features of asset a are down."),
        ((), 2, "Servers behind the features of asset a are down, and 2 more are degraded."),
    ],
    ids=["missing", "servers-down", "several"],
)
def test_degradation__is_told_in_words(missing: tuple[str, ...], more: int, says: str) -> None:
    first = Prediction("a", 1.0, NOON, 1, "v1.0.0", missing, True, False, FeatureSource.CALENDAR)
    fine = replace(first, asset_id="b", degraded=False)
    assert DegradedError([fine, first, *[first] * more]).message == says


def test_async_model__can_be_copied() -> None:
    model = AsyncProductionModel(cast("Any", "a model"))
    assert copy.copy(model).model == "a model"
    with pytest.raises(AttributeError):
        object.__new__(AsyncProductionModel).anything  # noqa: B018


@pytest.mark.parametrize(
    "first",
    [
        _problem(503, Retry_After="0"),
        _problem(429, Retry_After="0"),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("Server disconnected"),
    ],
    ids=["503", "429", "502", "refused", "disconnected"],
)
def test_what_passes__is_asked_again_under_the_same_id(
    service: Service, ask: Ask, first: httpx.Response | Exception
) -> None:
    service.answers = [first, _answer(body=ONE)]
    assert ask(lambda client: client.features("meter-008")).asset_id == "meter-008"
    assert len({request.headers["X-Request-ID"] for request in service.requests}) == 1
    assert len(service.requests) == 2


def test_what_does_not_pass__is_told_after_three_times(service: Service, ask: Ask) -> None:
    service.answers = [_problem(503, Retry_After="0") for _ in range(9)]
    with pytest.raises(UnavailableError, match="What is wrong") as refusal:
        ask(lambda client: client.feature_sets())
    assert refusal.value.retryable
    assert len(service.requests) == 3


def test_slow_answer__is_not_asked_for_again(service: Service, ask: Ask) -> None:
    service.answers = [httpx.ReadTimeout("")]
    with pytest.raises(ServiceDownError, match="no answer in time") as refusal:
        ask(lambda client: client.features("meter-008"))
    assert refusal.value.request_id == service.requests[0].headers["X-Request-ID"]


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), _answer(body={"tenant_id": "a"})])
def test_answer__of_something_else__is_told(service: Service, ask: Ask, answer: httpx.Response) -> None:
    service.answers = [answer]
    with pytest.raises(AiHubError, match=r"cannot read: .*\nIs it the address of AI Hub"):
        ask(lambda client: client.features("meter-008"))


def test_export__that_takes_longer__is_followed(
    service: Service, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai_hub.client.operations._POLL_S", 0.01)
    service.answers = [_answer(202, JOB), _answer(body=JOB), _answer(body=JOB | {"status": "completed"})]
    job = ask(lambda client: client.export("forecast_basic", NOON, NOON, assets=["meter-008"]))
    assert job.status == "completed"
    post, *polls = service.requests
    assert (post.url.path, dict(post.url.params)) == ("/ai/features/export", {"wait_s": "30.0"})
    assert {request.url.path for request in polls} == {f"/ai/features/exports/{JOB['export_id']}"}
    assert {request.url.params["tenant_id"] for request in polls} == {"city-works"}


def test_export__repeated_after_a_cut__is_the_same_job(service: Service, ask: Ask) -> None:
    service.answers = [httpx.ReadError("cut"), _answer(202, JOB)]
    assert ask(lambda client: client.export("forecast_basic", NOON, NOON, wait=False)).status == "running"
    first, second = service.bodies()
    assert first == second
    assert len(first["idempotency_key"]) == 32
    assert service.requests[0].url.params["wait_s"] == "0.0"


def test_export__failed__is_an_error_with_the_job(service: Service, ask: Ask) -> None:
    service.answers = [_answer(202, JOB | {"status": "failed", "error": "the disk is full"})]
    with pytest.raises(ExportFailedError, match="failed: the disk is full") as failure:
        ask(lambda client: client.export("forecast_basic", NOON, NOON))
    assert str(failure.value.job.export_id) == JOB["export_id"]


def test_lists__are_asked_for_the_tenant(service: Service, ask: Ask) -> None:
    sets = {"feature_sets": {}, "total": 0}
    exports, models = {"exports": [JOB], "total": 1}, {"models": [], "total": 0, "tenant_id": "city-works"}
    service.answers = [_answer(body=sets), _answer(body=exports), _answer(body=models)]
    assert ask(lambda client: client.feature_sets()) == {}
    assert ask(lambda client: client.exports(status="running"))[0].message == "half of it"
    assert ask(lambda client: client.models("demand-forecast", stage="production")) == []
    assert [dict(request.url.params) for request in service.requests] == [
        {},
        {"tenant_id": "city-works", "status_filter": "running", "limit": "100"},
        {"tenant_id": "city-works", "model_name": "demand-forecast", "stage": "production", "limit": "100"},
    ]


def test_both_clients__have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[inspect.Parameter]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: list(inspect.signature(member).parameters.values())
            for name, member in members
            if name == "__init__" or not name.startswith("_")
        }

    asynchronous = public(ai_hub.AsyncClient)
    asynchronous["close"] = asynchronous.pop("aclose")
    assert public(ai_hub.Client) == asynchronous


def test_one_client__many_threads__each_has_its_answer(service: Service) -> None:
    service.answers = [_answer(body=ONE) for _ in range(40)]
    found: list[str] = []
    with ai_hub.Client("http://hub.test", tenant="city-works") as client:

        def ask() -> None:
            found.extend(client.features("meter-008").asset_id for _ in range(5))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["meter-008"] * 40

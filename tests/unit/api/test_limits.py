from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from ai_hub.access.principal import DEVELOPER, Principal
from ai_hub.api import limits
from ai_hub.api.limits import BodyLimit, RateLimit, RateLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

MOST, MOST_UPLOAD = 1000, 5000


async def count_bytes(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


async def drip(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


def post(app: ASGIApp, path: str = "/ai/features/get", **request: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
            return await client.post(path, **request)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("path", "sizes", "status"),
    [
        ("/ai/features/get", [MOST], 200),
        ("/ai/features/get", [MOST + 1], 413),
        ("/ai/features/get", [MOST, 1], 413),
        ("/ai/features/get", [400, 400, 400, 10**7], 413),
        ("/ai/models/register", [MOST_UPLOAD - 1, 1], 200),
        ("/ai/models/register", [MOST_UPLOAD, 1], 413),
        ("/ai/models/register/x", [MOST + 1], 413),
    ],
)
def test_body__streamed__is_counted_as_it_comes(path: str, sizes: list[int], status: int) -> None:
    app = BodyLimit(count_bytes, MOST, MOST_UPLOAD)
    answer = post(app, path, content=drip(*sizes))
    assert answer.status_code == status
    assert answer.text == str(sum(sizes)) if status == 200 else answer.json()["error"] == "too_large"


@pytest.mark.parametrize(
    ("length", "status"),
    [("1", 413), ("1001", 413), ("9" * 5000, 413), ("-1", 422), ("1e3", 422), ("²", 422), ("", 422)],
)
def test_body__content_length_lies__counts_what_comes(length: str, status: int) -> None:
    app = BodyLimit(count_bytes, MOST, MOST_UPLOAD)
    answer = post(app, content=drip(MOST, 1), headers={"content-length": length.encode()})
    assert answer.status_code == status


def test_body__too_large__is_not_read_to_its_end() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100

    assert post(BodyLimit(count_bytes, MOST, MOST_UPLOAD), content=endless()).status_code == 413
    assert taken <= MOST // 100 + 2


async def slowly(*sizes: int, pause_s: float = 0.05) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size
        await asyncio.sleep(pause_s)


def test_body__without_end__is_answered_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.2)
    app = BodyLimit(count_bytes, MOST, MOST_UPLOAD)
    begun = time.monotonic()
    answer = post(app, content=slowly(*[1] * 100, pause_s=0.1))
    assert 0.2 <= time.monotonic() - begun < 2
    assert (answer.status_code, answer.json()["error"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_body__large_and_at_a_fair_rate__has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.2)
    monkeypatch.setattr(limits, "MIN_BYTES_PER_S", 1000)
    app = BodyLimit(count_bytes, MOST, MOST_UPLOAD)
    begun = time.monotonic()
    answer = post(app, "/ai/models/register", content=slowly(*[200] * 20))
    assert time.monotonic() - begun > 0.5
    assert (answer.status_code, answer.text) == (200, "4000")


def test_body__that_has_come__leaves_the_endpoint_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.1)

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.3)
        await PlainTextResponse("done")(scope, receive, send)

    answer = post(BodyLimit(endpoint, MOST, MOST_UPLOAD), content=b"x")
    assert (answer.status_code, answer.text) == (200, "done")


def limited(principal: Principal | None, limiter: RateLimiter) -> ASGIApp:
    inner = RateLimit(count_bytes, limiter)

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["principal"] = principal
        await inner(scope, receive, send)

    return known


def caller(identity: str) -> Principal:
    return Principal("same name", frozenset({"a"}), frozenset(), identity=identity)


def test_rate__one_caller_asks_too_often__others_do_not_notice() -> None:
    limiter = RateLimiter(20, 20)
    first, second = limited(caller("1"), limiter), limited(caller("2"), limiter)
    answers = [post(first) for _ in range(30)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 5 <= len(refused) <= 10
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert refused[0].json()["error"] == "too_many_requests"
    assert post(second).status_code == 200


def test_rate__a_second_later__may_ask_again() -> None:
    app = limited(caller("1"), RateLimiter(3, 3))
    assert [post(app).status_code for _ in range(4)][-1] == 429
    time.sleep(1.05)
    assert post(app).status_code == 200


def test_rate__development__has_no_limit() -> None:
    app = limited(DEVELOPER, RateLimiter(1, 1))
    assert {post(app).status_code for _ in range(5)} == {200}


def test_rate__addresses__are_limited_by_network_and_take_no_memory() -> None:
    limiter = RateLimiter(1, 1)

    def refused(address: str) -> bool:
        app = RateLimit(count_bytes, limiter)
        try:
            limiter.check_address({"client": (address, 1), "path": "/ai/features/get"})
        except Exception:  # noqa: BLE001
            return True
        del app
        return False

    assert not refused("2001:db8::1")
    assert refused("2001:db8::2"), "one host has the whole /64"
    assert not refused("10.0.0.1")
    assert refused("10.0.0.1")
    for number in range(20_000):
        refused(f"10.1.{number >> 8}.{number & 255}")
    assert len(limiter._addresses._arrival) <= 4096 + 1


def test_rate__strangers_behind_the_same_proxy__watching_goes_on() -> None:
    app = RateLimit(count_bytes, RateLimiter(1, 3))
    assert [post(app).status_code for _ in range(5)].count(429) >= 2
    assert [post(app, path).status_code for path in ("/health/live", "/health/ready", "/metrics")] == [
        200
    ] * 3
    assert post(app, "/metrics").status_code == 429

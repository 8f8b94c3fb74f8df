from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from support.admitted import Admitted

from ai_hub.access.principal import DEVELOPER, Principal
from ai_hub.api import admission
from ai_hub.api.admission import RateLimiter
from ai_hub.api.errors import TooManyRequestsError
from ai_hub.settings import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

MOST, MOST_UPLOAD = 1000, 5000


async def count_bytes(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def limited(endpoint: ASGIApp) -> ASGIApp:
    options = ServiceSettings(max_body_bytes=MOST, max_upload_bytes=MOST_UPLOAD)
    return Admitted(endpoint, options, lambda _: DEVELOPER)


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
    app = limited(count_bytes)
    answer = post(app, path, content=drip(*sizes))
    assert answer.status_code == status
    assert answer.text == str(sum(sizes)) if status == 200 else answer.json()["error"] == "too_large"


@pytest.mark.parametrize(
    ("length", "status"),
    [("1", 413), ("1001", 413), ("9" * 5000, 413), ("-1", 422), ("1e3", 422), ("²", 422), ("", 422)],
)
def test_body__content_length_lies__counts_what_comes(length: str, status: int) -> None:
    app = limited(count_bytes)
    answer = post(app, content=drip(MOST, 1), headers={"content-length": length.encode()})
    assert answer.status_code == status


def test_body__too_large__is_not_read_to_its_end() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100

    assert post(limited(count_bytes), content=endless()).status_code == 413
    assert taken <= MOST // 100 + 2


async def slowly(*sizes: int, pause_s: float = 0.05) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size
        await asyncio.sleep(pause_s)


def test_body__without_end__is_answered_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_S", 0.2)
    app = limited(count_bytes)
    begun = time.monotonic()
    answer = post(app, content=slowly(*[1] * 100, pause_s=0.1))
    assert 0.2 <= time.monotonic() - begun < 2
    assert (answer.status_code, answer.json()["error"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


def test_body__large_and_at_a_fair_rate__has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_S", 0.2)
    monkeypatch.setattr(admission, "MIN_BYTES_PER_S", 1000)
    app = limited(count_bytes)
    begun = time.monotonic()
    answer = post(app, "/ai/models/register", content=slowly(*[200] * 20))
    assert time.monotonic() - begun > 0.5
    assert (answer.status_code, answer.text) == (200, "4000")


def test_body__that_has_come__leaves_the_endpoint_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_S", 0.1)

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.3)
        await PlainTextResponse("done")(scope, receive, send)

    answer = post(limited(endpoint), content=b"x")
    assert (answer.status_code, answer.text) == (200, "done")


def caller(identity: str) -> Principal:
    return Principal("same name", frozenset({"a"}), frozenset(), identity=identity)


def is_refused(limiter: RateLimiter, principal: Principal | None, address: str = "10.0.0.1") -> bool:
    try:
        limiter.check({"client": (address, 1), "path": "/ai/features/get"}, principal)
    except TooManyRequestsError:
        return True
    return False


def test_rate__one_caller_asks_too_often__others_do_not_notice() -> None:
    limiter = RateLimiter(20, 20)
    assert 5 <= sum(is_refused(limiter, caller("1")) for _ in range(30)) <= 10
    assert not is_refused(limiter, caller("2"))


def test_rate__over__is_answered_with_429_and_a_pause() -> None:
    app = Admitted(count_bytes, ServiceSettings(rate_limit_per_s=3), lambda _: caller("1"))
    answer = [post(app) for _ in range(4)][-1]
    assert (answer.status_code, answer.json()["error"]) == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) >= 1


def test_rate__a_second_later__may_ask_again() -> None:
    limiter = RateLimiter(3, 3)
    assert [is_refused(limiter, caller("1")) for _ in range(4)][-1]
    time.sleep(1.05)
    assert not is_refused(limiter, caller("1"))


def test_rate__development__has_no_limit() -> None:
    limiter = RateLimiter(1, 1)
    assert not any(is_refused(limiter, DEVELOPER) for _ in range(5))


def test_rate__addresses__are_limited_by_network_and_take_no_memory() -> None:
    limiter = RateLimiter(1, 1)
    assert not is_refused(limiter, None, "2001:db8::1")
    assert is_refused(limiter, None, "2001:db8::2"), "one host has the whole /64"
    assert not is_refused(limiter, None, "10.0.0.1")
    assert is_refused(limiter, None, "10.0.0.1")
    for number in range(20_000):
        is_refused(limiter, None, f"10.1.{number >> 8}.{number & 255}")
    assert len(limiter._addresses._arrival) <= 4096 + 1


def test_rate__strangers_behind_the_same_proxy__watching_goes_on() -> None:
    app = Admitted(count_bytes, ServiceSettings(unauthenticated_per_s=3), lambda _: None)
    assert [post(app).status_code for _ in range(5)].count(429) >= 2
    assert [post(app, path).status_code for path in ("/health/live", "/health/ready", "/metrics")] == [
        200
    ] * 3
    assert post(app, "/metrics").status_code == 429

"""The web server and clients that keep it waiting, over real connections."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from starlette.requests import Request
from starlette.responses import Response
from support.service_process import free_port
from support.service_server import running_app, running_service

from ai_hub.access.authenticator import Authenticator
from ai_hub.access.principal import ALL_SCOPES, Principal
from ai_hub.api import admission, http_protocol, observability
from ai_hub.api.routes.features import OnlineFeatures
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

FULL = 4
#: Seconds that places are held before they are given back; a busy machine needs some of them to look.
HELD_S = 2.0
#: Some 45 KB; a request for it is anonymous.
LARGE = "/openapi.json"
GET_LARGE = f"GET {LARGE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A service with few places, which each test gives back; its servers are down."""
    options = ServiceSettings(auth="off", max_in_flight=FULL, unauthenticated_per_s=10_000)
    with down(options) as running:
        yield running


@contextmanager
def down(options: ServiceSettings) -> Iterator[str]:
    """A service whose servers are down, for the block."""
    port = free_port()
    settings = Settings(
        timescale_dsn=f"postgresql://nobody@127.0.0.1:{port}/none",
        redis_url=f"redis://127.0.0.1:{port}/0",
        feast_registry_uri=f"postgresql+psycopg://nobody@127.0.0.1:{port}/none",
        mlflow_tracking_uri=f"http://127.0.0.1:{port}",
        minio_endpoint_url=f"http://127.0.0.1:{port}",
    )
    with running_service(settings, options) as running:
        yield running


def connected(address: str, window: int = 4096) -> socket.socket:
    """A client; its small window leaves with the service what it does not read."""
    where = urlsplit(address)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(20)
    client.connect((where.hostname, where.port))
    return client


def read_all(client: socket.socket) -> bytes:
    """Until the service closes."""
    return b"".join(iter(lambda: client.recv(65_536), b""))


def until(status: int, method: str, url: str) -> None:
    """Wait for an answer with that status."""
    deadline = time.monotonic() + 10
    with httpx.Client(timeout=20) as client:
        while (answer := client.request(method, url, content=b"{}")).status_code != status:
            assert time.monotonic() < deadline, answer.text[:500]
            time.sleep(0.05)


def until_closed(clients: list[socket.socket]) -> None:
    """Wait until the service, which runs in this process, has closed its ends; clients cannot see it."""
    ports = {client.getsockname()[1] for client in clients}
    deadline = time.monotonic() + 20
    while ports & {each.raddr.port for each in psutil.Process().net_connections("tcp") if each.raddr}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bodies_without_end__hold_all_places__and_give_them_back(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "BODY_S", HELD_S)
    online = f"{address}/ai/features/get"
    head = b"POST /ai/features/get HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{"
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(FULL)]
        for client in clients:
            client.sendall(head)
        until(503, "POST", online)
        until(422, "POST", online)
        for client in clients:
            answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"error":"request_timeout"' in answer
            assert b'"request_id":' in answer


def test_answer_nobody_reads__is_dropped_with_its_connection(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "ANSWER_S", HELD_S)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(FULL // 2)]
        for client in clients:
            client.sendall(GET_LARGE * 200)
        until(429, "GET", address + LARGE)
        until_closed(clients)
        until(200, "GET", address + LARGE)
        for client in clients:
            assert read_all(client).count(b"HTTP/1.1 200 ") < 200


def test_answer_read_slowly__is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "ANSWER_S", 0.8)
    monkeypatch.setattr(http_protocol, "MIN_BYTES", 10_000)
    size, received, begun = 12_000_000, 0, time.monotonic()
    answer = Response(b"x" * size, headers={"Connection": "close"})
    with running_app(answer, "off") as address, connected(address, 1 << 20) as client:
        client.sendall(GET_LARGE)
        while data := client.recv(200_000):
            received += len(data)
            time.sleep(len(data) / 4_000_000)
    assert received > size
    assert time.monotonic() - begun > 2


async def unhurried(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, and thinks a while."""
    size = len(await Request(scope, receive).body())
    await asyncio.sleep(0.5)
    await Response(f"{size} bytes read")(scope, receive, send)


@pytest.mark.parametrize(
    ("following", "refusal"),
    [
        (b"GET /second HTTP/1.1\r\nHost:", b"HTTP/1.1 408 "),
        (b"no HTTP at all\r\n\r\n", b"HTTP/1.1 400 "),
    ],
    ids=["late", "wrong"],
)
def test_refusal__of_a_pipelined_request__follows_the_answers_before_it(
    following: bytes, refusal: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.1)
    with running_app(unhurried, "off") as address, connected(address) as client:
        client.sendall(2 * GET_LARGE + following)
        answers = read_all(client)
    assert answers.startswith(b"HTTP/1.1 200 ")
    first, second = answers.index(b"0 bytes read"), answers.rindex(b"0 bytes read")
    assert first < second < answers.index(refusal)


def test_head__of_a_pipelined_request__is_not_as_long_as_the_body_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "MAX_HEAD_BYTES", 1000)
    with running_app(unhurried, "off") as address, connected(address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5001\r\n\r\n{")
        time.sleep(0.1)
        client.sendall(b"x" * 5000 + b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        time.sleep(0.1)
        client.sendall(b"Connection: close\r\n\r\n")
        answers = read_all(client)
    assert re.findall(rb"\d+ bytes read", answers) == [b"5001 bytes read", b"0 bytes read"]


def test_head__too_long__is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_HEAD_BYTES", 1000)
    with running_app(unhurried, "off") as address, connected(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 1000)
        assert read_all(client).startswith(b"HTTP/1.1 431 ")


ONLINE_BODY = b'{"tenant_id": "city-works", "asset_id": "meter-1", "feature_set": "forecast_basic"}'
ONLINE_HEAD = (
    b"POST /ai/features/get HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"X-Request-ID: mine\r\n"
)
WITH_LENGTH = ONLINE_HEAD + b"Content-Length: %d\r\n\r\n" % len(ONLINE_BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ONLINE_BODY), ONLINE_BODY)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request for features was answered ahead of the framework, of those that were tried."""
    found: list[bool] = []
    answer = OnlineFeatures.answer

    async def noted(self: OnlineFeatures, scope: Scope, body: bytearray) -> http_protocol.Answer | None:
        result = await answer(self, scope, body)
        found.append(result is not None)
        return result

    monkeypatch.setattr(OnlineFeatures, "answer", noted)
    return found


@pytest.mark.parametrize(
    ("parts", "ahead"),
    [
        ([WITH_LENGTH + ONLINE_BODY], 1),
        ([WITH_LENGTH, ONLINE_BODY], 1),
        ([WITH_LENGTH + ONLINE_BODY[:9], ONLINE_BODY[9:20], ONLINE_BODY[20:]], 1),
        ([ONLINE_HEAD + CHUNKED], 1),
        ([ONLINE_HEAD + b"Expect: 100-continue\r\n" + WITH_LENGTH.removeprefix(ONLINE_HEAD), ONLINE_BODY], 0),
        ([ONLINE_HEAD + b"X-Forwarded-For: 127.0.0.1\r\n" + CHUNKED], 1),
        ([ONLINE_HEAD + b"Origin: http://127.0.0.1\r\n" + CHUNKED], 0),
        ([(WITH_LENGTH + ONLINE_BODY) * 3], 3),
        ([WITH_LENGTH + ONLINE_BODY + WITH_LENGTH + ONLINE_BODY[:9], ONLINE_BODY[9:]], 2),
        ([b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + WITH_LENGTH + ONLINE_BODY], 1),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_request_for_features__however_it_comes__is_answered_once_and_the_same(
    address: str,
    answered: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    parts: list[bytes],
    ahead: int,
    is_late: bool,
) -> None:
    """That of a service whose servers are down: its text tells whether the request was understood.

    `ahead`: how many are answered ahead of the framework; bodies that are late are the framework's.
    """
    pause_s = 0.2 if is_late else 0.005
    if not is_late:
        monkeypatch.setattr(http_protocol, "_BODY_S", 20.0)
    with connected(address) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause_s)
        client.sendall(ONLINE_HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        answers = read_all(client)
    asked = b"".join(parts).count(b"POST /ai/features/get")
    assert re.findall(rb"HTTP/1.1 (503|422) ", answers) == [b"503"] * asked + [b"422"]
    assert answers.count(b'"message":"Feast\'s registry does not answer."') == asked
    assert answers.lower().count(b"x-request-id: mine\r\n") == asked + 1
    if not is_late or len(parts) == 1:
        assert answered.count(True) == ahead


def test_request_for_features__over_the_rate__is_refused_whoever_answers(
    answered: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is handed to the framework is counted once."""
    caller = Principal("inference", frozenset({"city-works"}), ALL_SCOPES)
    monkeypatch.setattr(Authenticator, "from_cache", lambda *_: caller)
    monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    wrong = ONLINE_HEAD + b"Content-Length: 1\r\n\r\n{"
    right = WITH_LENGTH + ONLINE_BODY
    with down(ServiceSettings(rate_limit_per_s=3)) as running, connected(running) as client:
        client.sendall(right + wrong + right + right)
        client.sendall(ONLINE_HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\n{")
        answers = read_all(client)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"503", b"422", b"503", b"429", b"429"]
    assert answered == [True, False, True, True, False]


@pytest.mark.parametrize("begin", [WITH_LENGTH + ONLINE_BODY[:9], ONLINE_HEAD + CHUNKED[:-5]])
@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_client_that_leaves_in_the_middle_of_a_body__is_logged_as_such(
    address: str, monkeypatch: pytest.MonkeyPatch, begin: bytes, pause_s: float
) -> None:
    logged: list[int] = []
    monkeypatch.setattr(observability, "log_request", lambda _, status, __: logged.append(status))
    with connected(address) as client:
        client.sendall(begin)
        time.sleep(pause_s)
    deadline = time.monotonic() + 20
    while not logged:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert logged == [499]


def test_request_for_features__of_another_machine_behind_the_proxy__is_known_as_such(address: str) -> None:
    """Without authentication only this machine is answered."""
    forwarded = ONLINE_HEAD + b"Connection: close\r\nX-Forwarded-For: 10.1.2.3\r\n" + CHUNKED
    with connected(address) as client:
        client.sendall(forwarded)
        assert read_all(client).startswith(b"HTTP/1.1 403 ")

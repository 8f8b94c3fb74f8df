from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING

import httpx
import pytest

from ai_hub.api.app import create_app
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = ("127.0.0.1", "127.9.9.9", "::1")
ELSEWHERE = ("192.168.1.4", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "localhost.example", "")
HOSTS = ("localhost", "LOCALHOST:8003", "127.0.0.1:8003", "127.0.0.2", "[::1]:8003")
FOREIGN_HOSTS = ("hub.example", "127.0.0.1.example", "localhost.example:8003", "0.0.0.0", "x@127.0.0.1", "")  # noqa: S104


@cache  # making it costs more than all requests
def service(**options: str) -> FastAPI:
    return create_app(ServiceSettings(**options), Settings())  # type: ignore[arg-type]


def ask(client: str, host: str, path: str = "/health/live", **options: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(service(**options), client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://hub") as http:
            return await http.get(path, headers={"host": host})

    return asyncio.run(send())


@pytest.mark.parametrize("client", HERE)
@pytest.mark.parametrize("host", HOSTS)
def test_off__request_of_this_machine__is_answered(client: str, host: str) -> None:
    assert ask(client, host, auth="off").status_code == 200


@pytest.mark.parametrize(
    ("client", "host"),
    [*((client, HOSTS[0]) for client in ELSEWHERE), *((HERE[0], host) for host in FOREIGN_HOSTS)],
)
@pytest.mark.parametrize("path", ["/health/live", "/ai/features/sets", "/openapi.json"])
def test_off__anybody_else__is_refused_and_told_why(client: str, host: str, path: str) -> None:
    answer = ask(client, host, path, auth="off")
    assert answer.status_code == 403
    assert answer.json()["error"] == "forbidden"
    assert "AI_HUB_API_AUTH" in answer.json()["hint"]
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_keys_required__requests_of_others__are_answered() -> None:
    assert ask(ELSEWHERE[0], FOREIGN_HOSTS[0]).status_code == 200

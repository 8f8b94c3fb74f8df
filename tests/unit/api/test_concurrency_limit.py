from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
from starlette.responses import PlainTextResponse
from support.admitted import Admitted

from ai_hub.access.principal import DEVELOPER, Principal
from ai_hub.settings import ServiceSettings

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

ONLINE, OTHER = "/ai/features/get", "/ai/models/"
CALLERS = {name: Principal("same name", frozenset({"a"}), frozenset(), identity=name) for name in "abc"}


class Service:
    """Keeps every request until the gate opens; the key says who asks."""

    def __init__(self, most: int) -> None:
        self.gate = asyncio.Event()
        self.app = Admitted(self._endpoint, ServiceSettings(max_in_flight=most), self._caller)
        transport = httpx.ASGITransport(self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://service")
        self._asked: list[asyncio.Task[httpx.Response]] = []

    @staticmethod
    def _caller(key: str | None) -> Principal | None:
        return DEVELOPER if key == "developer" else CALLERS.get(key or "")

    async def _endpoint(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith("/health/"):
            await self.gate.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async def ask(self, path: str, caller: str) -> httpx.Response | None:
        """The answer; None: it is under way."""
        task = asyncio.create_task(self.http.get(path, headers={"x-api-key": caller}))
        done, _ = await asyncio.wait([task], timeout=0.02)
        self._asked += [] if done else [task]
        return task.result() if done else None

    async def finish(self) -> set[int]:
        """Statuses of all that were under way."""
        self.gate.set()
        return {(await task).status_code for task in self._asked}


def test_full__refuses_with_503__and_neither_path_takes_the_places_of_the_other() -> None:
    async def run() -> None:
        service = Service(most=2)
        assert [await service.ask(OTHER, caller) for caller in "ab"] == [None, None]
        refused = await service.ask(OTHER, "c")
        assert refused is not None
        assert (refused.status_code, refused.json()["error"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert (await service.http.get("/health/live")).status_code == 200
        assert await service.ask(ONLINE, "c") is None
        assert await service.finish() == {200}
        assert (await service.http.get(OTHER, headers={"x-api-key": "c"})).status_code == 200

    asyncio.run(run())


def test_one_caller__has_half_of_the_places__and_gets_them_back() -> None:
    async def run() -> None:
        service = Service(most=5)
        assert [await service.ask(ONLINE, "a") for _ in range(2)] == [None, None]
        refused = await service.ask(ONLINE, "a")
        assert refused is not None
        assert (refused.status_code, refused.json()["error"]) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        assert await service.ask(ONLINE, "b") is None
        assert await service.ask(OTHER, "a") is None
        assert await service.finish() == {200}
        assert (await service.http.get(ONLINE, headers={"x-api-key": "a"})).status_code == 200
        assert not any(limiter._held for limiter in service.app._limits.slots.limiters.values()), (
            "callers at rest take no memory"
        )

    asyncio.run(run())


def test_nobody_known__is_one_caller__and_a_developer_has_all_limit() -> None:
    async def run() -> None:
        service = Service(most=4)
        answers = [await service.ask("/docs", "") for _ in range(3)]
        assert [answer and answer.status_code for answer in answers] == [None, None, 429]
        answers = [await service.ask(ONLINE, "developer") for _ in range(5)]
        assert [answer and answer.status_code for answer in answers] == [None, None, None, None, 503]
        assert await service.finish() == {200}

    asyncio.run(run())

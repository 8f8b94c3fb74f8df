from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import httpx
from starlette.responses import PlainTextResponse

from mlflow_plugins.gates.builtin import ManifestGate
from mlflow_plugins.web import mount
from mlflow_plugins.web.mount import WarmUp

if TYPE_CHECKING:
    import pytest


def test_health__says_ready_once_every_gate_is(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(ManifestGate, "warm_up", staticmethod(may_end.wait))
    server = WarmUp(PlainTextResponse("OK"))

    def health() -> int:
        async def ask() -> int:
            transport = httpx.ASGITransport(server)
            async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
                return (await client.get("/health")).status_code

        return asyncio.run(ask())

    assert health() == 503
    may_end.set()
    server.wait()
    assert health() == 200


def test_health__gate_cannot_warm_up__is_ready_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError

    monkeypatch.setattr(ManifestGate, "warm_up", staticmethod(fail))
    WarmUp(PlainTextResponse("OK")).wait()


def test_health__gates_cannot_be_listed__is_ready_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise OSError

    monkeypatch.setattr(mount, "gate_names", fail)
    server = WarmUp(PlainTextResponse("OK"))
    assert server._done.wait(60)

"""Which application answers which path."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlflow_plugins import lineage_events
from mlflow_plugins.web.mount import Mount


@pytest.mark.parametrize(
    ("kind", "root", "path", "expected"),
    [
        ("http", "", "/", ("mlflow", "")),
        ("http", "", "/api/2.0/mlflow/x", ("mlflow", "")),
        ("http", "", "/ai-hub/api/models", ("api", "/ai-hub")),
        ("http", "", "/ai-hub", ("mlflow", "")),
        ("http", "", "/ai-hub-2/api", ("mlflow", "")),
        ("http", "", "/lifecycle", ("page", "")),
        ("http", "", "/lifecycle/x", ("page", "")),
        ("http", "", "/lifecycles", ("mlflow", "")),
        ("http", "/base", "/base/ai-hub/api", ("api", "/base/ai-hub")),
        ("http", "/base", "/base/lifecycle", ("page", "/base")),
        ("http", "/base", "/ai-hub/api", ("api", "/base/ai-hub")),
        ("websocket", "", "/ai-hub/x", ("api", "/ai-hub")),
        ("websocket", "", "/lifecycle", ("mlflow", "")),
        ("http", "", "/health", ("ready", "")),
        ("lifespan", "", None, ("mlflow", "")),
    ],
)
def test_mount__hands_on_by_the_beginning_of_the_path(
    kind: str, root: str, path: str | None, expected: tuple[str, str]
) -> None:
    answered: list[tuple[str, str]] = []

    def application(name: str) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            del receive, send
            answered.append((name, scope.get("root_path", "")))

        return answer

    mount = Mount(
        application("mlflow"),
        {"/ai-hub": application("api")},
        {"/lifecycle": application("page")},
        {"/health": application("ready")},
    )
    scope: dict[str, Any] = {"type": kind, "root_path": root} | ({} if path is None else {"path": path})

    async def nothing(*_: Any) -> Any:
        return None

    asyncio.run(mount(scope, nothing, nothing))
    assert answered == [expected]


def test_shutdown__is_complete_when_lineage_events_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(lineage_events, "finish", lambda: steps.append("events"))

    async def mlflow(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        for step in ("startup", "shutdown"):
            await send({"type": f"lifespan.{step}.complete"})

    async def send(message: Any) -> None:
        steps.append(message["type"])

    async def receive() -> Any:
        return None

    asyncio.run(Mount(mlflow, {}, {}, {})({"type": "lifespan"}, receive, send))
    assert steps == ["lifespan.startup.complete", "events", "lifespan.shutdown.complete"]

"""Settings turn on what is off by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from starlette.responses import HTMLResponse, PlainTextResponse

from mlflow_plugins.web import mount
from mlflow_plugins.web.mount import FrontPage

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def _get(app: ASGIApp) -> httpx.Response:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mlflow") as client:
            return await client.get("/")

    return asyncio.run(get())


def test_front_page__with_the_assistant_on__leaves_it() -> None:
    page = _get(FrontPage(HTMLResponse("<html><head></head></html>"), assistant=True))
    assert "lifecycle/mlflow.js" in page.text
    assert "data-assistant" not in page.text


def test_front_page__that_is_none__passes_as_it_is() -> None:
    page = _get(FrontPage(PlainTextResponse("no page was built", 503), assistant=False))
    assert (page.status_code, page.text) == (503, "no page was built")


@pytest.mark.parametrize(("setting", "disabled"), [(None, "true"), ("false", "false"), ("true", "true")])
def test_reports__are_off_unless_a_setting_turns_them_on(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, disabled: str
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(mount, "set_telemetry_client", lambda: calls.append(None))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", setting or "")
    if setting is None:
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    mount.report_nothing()
    assert str(MLFLOW_DISABLE_TELEMETRY.get()).lower() == disabled
    assert bool(calls) == (setting is None)

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

import ai_hub
from ai_hub.api import logs
from ai_hub.api.app import create_app
from ai_hub.api.paths import RouteTemplates
from ai_hub.settings import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def untouched() -> Iterator[None]:
    """The loggers of the test run itself stay as they are."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.QUIET}
    yield
    root.handlers[:], root.level = kept
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("untouched")
def test_log__one_json_line_an_event__of_ours_and_of_libraries() -> None:
    stream = io.StringIO()
    logs.configure(ServiceSettings(log_format="json", log_level="info"), stream)
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("ours").info("done", rows=3)
    structlog.get_logger("ours").debug("too much")
    logging.getLogger("library").warning("late by %d s", 4)
    structlog.contextvars.clear_contextvars()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["request_id"]) for line in lines] == [
        ("done", "info", "r1"),
        ("late by 4 s", "warning", "r1"),
    ]
    assert lines[0]["rows"] == 3
    assert lines[1]["logger"] == "library"


@pytest.mark.usefixtures("untouched")
def test_log__secrets_are_masked() -> None:
    stream = io.StringIO()
    logs.configure(ServiceSettings(log_format="json"), stream)
    structlog.get_logger("ours").info("connecting", to="postgresql://ai_hub:hush@db:5432/ai_hub")
    logging.getLogger("library").warning("password=hush was refused")
    assert "hush" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.usefixtures("untouched")
def test_log__of_an_answered_request__has_every_value() -> None:
    stream = io.StringIO()
    logs.configure(ServiceSettings(log_format="json"), stream)
    structlog.get_logger("ours").info(logs.REQUEST, route=Path("/ai/features/get"))
    assert json.loads(stream.getvalue())["route"] == "/ai/features/get"


@pytest.mark.usefixtures("untouched")
def test_log__of_answered_requests__waits_in_a_service__but_is_in_order_and_complete() -> None:
    stream = io.StringIO()
    logs.configure(ServiceSettings(log_format="json"), stream)
    log = structlog.get_logger("ours")

    def written() -> list[int]:
        return [json.loads(line)["number"] for line in stream.getvalue().splitlines()]

    async def serve() -> None:
        with logs.batched():
            log.info(logs.REQUEST, number=1)
            log.info(logs.REQUEST, number=2)
            await asyncio.sleep(0)
            assert written() == []
            log.warning("late", number=3)
            await asyncio.sleep(0)
            assert written() == [1, 2, 3]
            log.info(logs.REQUEST, number=4)
            await asyncio.sleep(2 * logs.BATCH_S)
            assert written() == [1, 2, 3, 4]
            log.info(logs.REQUEST, number=5)
        assert written() == [1, 2, 3, 4, 5]
        log.info(logs.REQUEST, number=6)
        await asyncio.sleep(0)

    asyncio.run(serve())
    assert written() == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("untouched")
def test_log__of_a_failure__has_its_traceback_in_the_line() -> None:
    stream = io.StringIO()
    logs.configure(ServiceSettings(log_format="json"), stream)
    hidden = "hush".upper()
    try:
        int("broken")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    [line] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert line["exception"][0]["exc_value"].endswith("'broken'")
    assert hidden not in stream.getvalue(), "local variables may be secrets"


def test_events__of_every_structured_log__are_named_by_one_rule() -> None:
    names = {
        node.args[0].value
        for path in Path(ai_hub.__file__).parent.rglob("*.py")
        if "structlog.get_logger" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "_log"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(names) > 10
    documented = (Path(__file__).parents[3] / "docs" / "service.md").read_text()
    for name in [*names, logs.REQUEST]:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", name), name
        assert f"`{name}`" in documented, name


class _Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).received.append((self.path, self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


_TRACED = """
import asyncio, httpx, sys
from fastapi import FastAPI
from ai_hub.api import observability
app = FastAPI()
@app.get("/fine/{name}")
async def fine(name: str) -> str:
    return name
observability.install_tracing(app)
async def run():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http:
        await http.get("/fine/one")
asyncio.run(run())
if observability.is_tracing_on():
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    [middleware] = [each for each in app.user_middleware if each.cls is OpenTelemetryMiddleware]
    middleware.kwargs["tracer_provider"].force_flush()
print("loaded" if "opentelemetry.sdk.trace.export" in sys.modules else "nothing loaded")
"""


def _run_traced(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _TRACED],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_traces__off__nothing_is_even_imported() -> None:
    assert _run_traced() == "nothing loaded"


def test_traces__on__a_span_reaches_the_collector() -> None:
    _Collector.received = []
    with HTTPServer(("127.0.0.1", 0), _Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{collector.server_port}"
        assert _run_traced(OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_SERVICE_NAME="forecasts") == "loaded"
        collector.shutdown()
    [(path, content)] = _Collector.received
    assert path == "/v1/traces"
    assert b"forecasts" in content
    assert b"/fine/" in content


def test_route_templates__are_the_documented_paths() -> None:
    app = create_app()
    templates = RouteTemplates(app)
    documented = app.openapi()["paths"]
    assert "/ai/models/{model_id}" in documented
    for path in documented:
        assert templates.has(path)
        assert templates.of(path.replace("{", "").replace("}", "")) == path
    assert not templates.has("/ai/models/{other}")
    assert templates.of("/ai/modelz") == "none"

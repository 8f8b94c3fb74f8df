"""What MLflow's refusals become: our errors, without the login that the address may hold."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ai_hub.errors import NotLoggedInError, ServiceDownError
from ai_hub.registry import server
from ai_hub.registry.tenants import tenant_scope

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401 if self.path == "/who" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a server refuses everything, without the login in MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{refusing.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:sec%40ret@"))
        yield address
        refusing.shutdown()


def test_refusal__holds_no_login(endpoint: str) -> None:
    with pytest.raises(NotLoggedInError) as refusal:
        server.call("GET", "/who")
    assert refusal.value.endpoint == endpoint
    assert "sec" not in str(refusal.value)


def test_server_that_is_down__is_told_without_the_login_that_mlflow_quotes(endpoint: str) -> None:
    with pytest.raises(ServiceDownError, match="API request to http://127") as down, server.readable_errors():
        server.connect().search_registered_models()
    assert down.value.endpoint == endpoint
    assert "sec" not in str(down.value)


def test_call__names_the_tenant_it_is_given_else_that_of_the_scope(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    del endpoint
    seen = []

    def send(_: httpx.Client, request: httpx.Request, **_options: Any) -> httpx.Response:
        seen.append(request.headers.get("X-MLFLOW-WORKSPACE"))
        return httpx.Response(200, json={}, request=request)

    monkeypatch.setattr(httpx.Client, "send", send)
    monkeypatch.delenv("MLFLOW_WORKSPACE", raising=False)
    server.call("GET", "/any")
    with tenant_scope("city-works"):
        server.call("GET", "/any")
        server.call("GET", "/any", tenant="harbour")
        server.call("GET", f"{server.WORKSPACES}/harbour")
    assert seen == [None, "city-works", "harbour", None]


def test_call__asks_again_as_often_as_mlflows_own_client_may(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(server.time, "sleep", pauses.append)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with pytest.raises(ServiceDownError, match="status 503"):
        server.call("GET", "/down")
    assert pauses == [0.0, 4.0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceDownError) as refusal:
        server.call("GET", "/down", max_retries=1)
    assert refusal.value.endpoint == "http://127.0.0.1:9"
    assert pauses == [0.0, 4.0, 0.0]
    assert endpoint != refusal.value.endpoint

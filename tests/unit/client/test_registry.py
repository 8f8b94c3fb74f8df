"""What the registry's answers mean, and as whom it is asked."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotLoggedInError,
    ServiceDownError,
)
from ai_hub.forecasting.models.registry import RegistryClient

TAGS = [{"key": "manifest_sha256", "value": "ab" * 32}, {"key": "semantic_version", "value": "v1.2.0"}]


def _ask(answer: httpx.Response | Exception) -> Any:
    """What `production` makes of an answer."""

    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["X-MLFLOW-WORKSPACE"] == "city-works"
        assert dict(request.url.params) == {"name": "demand-forecast", "alias": "production"}
        if isinstance(answer, Exception):
            raise answer
        return answer

    registry = RegistryClient("city-works", "http://me:secret@mlflow.test/")
    registry._http = httpx.Client(base_url=registry.url, transport=httpx.MockTransport(respond))
    return registry.production("demand-forecast")


def test_answer__is_the_version_with_its_digest() -> None:
    found = _ask(httpx.Response(200, json={"model_version": {"version": "7", "tags": TAGS}}))
    assert (found.version, found.label, found.manifest_sha256) == (7, "v1.2.0", "ab" * 32)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no model"}),
         NotFoundError, "no model\nPromote one with `ai-hub promote demand-forecast --tenant city-works`"),
        (httpx.Response(404, text="<html>"), NotFoundError, "See MLFLOW_TRACKING_URI"),
        (httpx.Response(400, json={"message": "Registered model alias production not found."}),
         NotFoundError, "No version of demand-forecast .tenant city-works. is in Production"),
        (httpx.Response(400, json={"message": "bad name"}), BadInputError, "bad name"),
        (httpx.Response(401, text="who?"), NotLoggedInError, "MLFLOW_TRACKING_USERNAME"),
        (httpx.Response(403, json={"message": "Permission denied"}), ForbiddenError, "docs/people"),
        (httpx.Response(500, text="oops"), ServiceDownError, "500 Internal Server Error"),
        (httpx.Response(503, json=["odd"]), ServiceDownError, "503"),
        (httpx.Response(200, text="<html>"), ServiceDownError, "not MLflow's"),
        (httpx.Response(200, json={"model_version": {}}), ServiceDownError, "not MLflow's"),
        (httpx.Response(200, json={"model_version": {"version": "7"}}), ConflictError, "has no manifest"),
        (httpx.ConnectError("refused"), ServiceDownError, "http://mlflow.test does not answer: refused"),
        (httpx.ReadTimeout(""), ServiceDownError, "ReadTimeout"),
    ],
)  # fmt: skip
def test_answer__of_another_kind__is_an_error_without_the_login(
    answer: httpx.Response | Exception, kind: type[AiHubError], says: str
) -> None:
    with pytest.raises(kind, match=says) as refusal:
        _ask(answer)
    assert "secret" not in str(refusal.value)


def test_login_in_the_address__is_sent_and_is_in_no_log_or_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent: list[str | None] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers["Authorization"])
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registry = RegistryClient("city-works", f"http://me:sec%40ret@127.0.0.1:{server.server_port}")
        with pytest.raises(NotLoggedInError) as refusal:
            registry.production("demand-forecast")
        registry.close()
        server.shutdown()
    assert sent == ["Basic bWU6c2VjQHJldA=="]
    assert "/registered-models/alias" in caplog.text, "httpx logs what it asks"
    assert "sec" not in caplog.text + str(refusal.value) + registry.url


def test_address__that_is_none__is_refused_without_its_password() -> None:
    with pytest.raises(BadInputError, match="MLFLOW_TRACKING_URI") as refusal:
        RegistryClient("city-works", "http://me:sec/ret@mlflow.test")
    assert "sec" not in str(refusal.value)
    assert refusal.value.__suppress_context__, "httpx quotes a part of it"

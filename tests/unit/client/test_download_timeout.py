"""A download from a registry that is overloaded ends soon."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from ai_hub.errors import ServiceDownError
from ai_hub.forecasting.models import loading
from ai_hub.forecasting.models.cache import ModelCache
from ai_hub.forecasting.models.loading import ModelLoader
from ai_hub.forecasting.models.registry import ProductionVersion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths asked for from a registry that says who it is, and is overloaded."""
    asked: list[str] = []

    class Overloaded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.endswith("/server-info")
            body = json.dumps({"store_type": "SqlStore", "workspaces_enabled": True}).encode()
            if not known:
                asked.append(self.path)
            self.send_response(200 if known else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Overloaded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()


@pytest.mark.timeout(60)
def test_download__from_an_overloaded_registry__is_given_up_soon(asked: list[str], tmp_path: Path) -> None:
    source = ModelLoader(ModelCache(tmp_path, "http://mlflow.test", "city-works", "m"), "city-works", "m")
    with pytest.raises(ServiceDownError, match="503"):
        source.get(ProductionVersion(1, "v1.0.0", "ab" * 32, {"manifest_sha256": "ab" * 32}))
    assert len(asked) == 2
    assert not set(NAMES) & set(os.environ), "as before"


def test_short_timeout__leaves_what_the_user_set_and_ends_with_the_last_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NAMES[0], "5")
    monkeypatch.delenv(NAMES[1], raising=False)
    first = loading._short_timeout()
    with loading._short_timeout():
        first.__enter__()
    assert [os.environ.get(name) for name in NAMES] == ["5", "20"]
    first.__exit__(None, None, None)
    assert [os.environ.get(name) for name in NAMES] == ["5", None]

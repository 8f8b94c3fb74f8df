"""A tenant's webhooks hear of its promotions through every door, once, and of nobody else's."""

from __future__ import annotations

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from support import registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Webhooks may normally neither be unencrypted nor lead into private networks.
_OPEN = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
_QUIET_S = 0.5


class Receiver:
    """An HTTP server that keeps what is posted, by path."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        received = self.events

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on the console."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, count: int) -> list[tuple[str, str, str, str | None]]:
        """The next `count` events, sorted: path, action, alias, version; fails when more are there."""
        deadline = time.monotonic() + 30
        while len(self.events) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        taken, self.events[:] = list(self.events), []
        assert len(taken) == count, taken
        return sorted(
            (path, event["action"], event["data"]["alias"], event["data"].get("version"))
            for path, event in taken
        )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    time.sleep(_QUIET_S)
    opened.close()
    assert opened.events == [], "one is told too much"


@pytest.fixture(scope="module")
def server(
    stack: dict[str, str], sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    folder = tmp_path_factory.mktemp("webhooks")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    with registry_servers.running(database, stack, folder, settings=_OPEN) as server:
        yield server


@pytest.fixture
def tenants(
    server: registry_servers.Server, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Tenant, Tenant]]:
    """Two tenants, each with two versions and a webhook at its own path."""
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    mlflow.set_tracking_uri(server.url)
    both = (new_tenant(server.url), new_tenant(server.url))
    for tenant, path in zip(both, ("/first", "/second"), strict=True):
        for _ in range(2):
            tenant.register(tmp_path / "model")
        events = [{"entity": "MODEL_VERSION_ALIAS", "action": action} for action in ("CREATED", "DELETED")]
        hook = {"name": "promotions", "url": f"{receiver.url}{path}", "events": events}
        answer = tenant.call("POST", "/api/2.0/mlflow/webhooks", json=hook)
        assert answer.status_code == 200, answer.text
    yield both
    mlflow.set_tracking_uri(before)


def test_webhooks__every_door__tell_each_promotion_once_and_only_its_tenant(
    tenants: tuple[Tenant, Tenant], receiver: Receiver
) -> None:
    first, second = tenants
    first.stage(1, "Production")
    assert receiver.take(1) == [("/first", "created", "production", "1")]
    # MLflow's own handler tells of the alias that was set; the others follow the stages
    first.alias("production", 2)
    assert receiver.take(3) == [
        ("/first", "created", "archived", "1"),
        ("/first", "created", "production", "2"),
        ("/first", "deleted", "staging", None),
    ]
    registry.promote(second.name, MODEL, 2, reason="lower error")
    assert receiver.take(2) == [
        ("/second", "created", "production", "2"),
        ("/second", "created", "staging", "1"),
    ]
    registry.rollback(first.name, MODEL, reason="drift")
    assert receiver.take(2) == [
        ("/first", "created", "archived", "2"),
        ("/first", "created", "production", "1"),
    ]


def test_webhooks__nothing_changed__tells_nothing(tenants: tuple[Tenant, Tenant], receiver: Receiver) -> None:
    first, _ = tenants
    first.stage(1, "Production")
    receiver.take(1)
    assert first.alias("production", 1).status_code == 200
    # a page that was loaded before the promotion
    body = {"name": MODEL, "alias": "staging", "version": "1"}
    answer = first.call("DELETE", "/ajax-api/2.0/mlflow/registered-models/alias", json=body)
    assert answer.status_code == 200, answer.text
    assert receiver.take(0) == []
    first.stage(1, "Archived")
    assert receiver.take(2) == [
        ("/first", "created", "archived", "1"),
        ("/first", "deleted", "production", None),
    ]


def test_webhooks__refused_promotion__tells_nothing(
    tenants: tuple[Tenant, Tenant], receiver: Receiver
) -> None:
    first, _ = tenants
    first.stage(1, "Archived")
    receiver.take(1)
    assert first.stage(1, "Production").status_code == 409
    assert first.alias("production", 1).status_code == 409
    assert receiver.take(0) == []

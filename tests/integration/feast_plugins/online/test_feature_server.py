"""The feature server answers what Feast's own answers, on the same store."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from feast import FeatureService, FeatureView, Field
from feast.feature_server import get_app
from feast.permissions import security_manager
from feast.permissions.action import AuthzedAction
from feast.permissions.auth import auth_manager
from feast.permissions.auth.auth_manager import AuthManager
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy
from feast.permissions.security_manager import SecurityManager
from feast.permissions.user import User
from feast.types import Array, Bytes, Float64, Int64, String
from support.online_repo import OURS, Pair, view
from support.valkey_servers import free_port, until

from feast_plugins.feature_server import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

FIELDS: dict[str, Any] = {
    "number": Float64,
    "count": Int64,
    "text": String,
    "raw": Bytes,
    "many": Array(Float64),
}
ROWS: list[dict[str, Any]] = [
    {"number": 1e-7, "count": -1, "text": 'ä"\n', "raw": b"\x00", "many": [1.0, float("inf")]},
    {"number": float("-inf"), "count": None, "text": "", "raw": None, "many": None},
    {"number": None, "count": 1 << 60, "text": None, "raw": b"", "many": []},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, connection: str) -> Pair:
    pair = Pair.open(tmp_path_factory.mktemp("server"), connection)
    types = view("types", [Field(name=name, dtype=kind) for name, kind in FIELDS.items()])
    pair.apply(types, view("a"), FeatureService(name="service", features=[types[["number", "text"]]]))
    pair.write(pair.ours, "types", [key(str(at)) | row for at, row in enumerate(ROWS)])
    pair.write(pair.ours, "a", [key("0") | {"a": 1.5}])
    return pair


@pytest.fixture(scope="module")
def apps(pair: Pair) -> tuple[ASGIApp, ASGIApp]:
    """Ours and Feast's, both on our store: on its own, Feast marks every value as present."""

    def closing(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                await pair.ours.close()  # each call has an event loop of its own

        return call

    return closing(create_app(pair.ours)), closing(get_app(pair.ours))


def key(asset: str) -> dict[str, str]:
    return {"tenant_id": "t", "asset_id": asset}


def post(app: ASGIApp, content: bytes, kind: str = "application/json", token: str = "") -> tuple[int, bytes]:
    """Status and body."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/get-online-features",
        "raw_path": b"/get-online-features",
        "query_string": b"",
        "headers": [(b"content-type", kind.encode()), (b"authorization", token.encode())],
    }
    unread, sent = [content], []

    async def receive() -> Any:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        try:
            await app(scope, receive, send)
        except Exception:  # noqa: BLE001  # Starlette raises what it has answered with 500
            assert sent

    asyncio.run(run())
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


ASSETS = ["0", "1", "nobody", "2", "0"]
REQUESTS: list[dict[str, Any]] = [
    {"features": [f"types:{name}" for name in FIELDS]},
    {"features": ["types:number", "a:a"], "full_feature_names": True},
    {"features": ["types:text"], "include_feature_view_version_metadata": True},
    {"feature_service": "service"},
]


def test_body__is_feasts_byte_by_byte(apps: tuple[ASGIApp, ASGIApp]) -> None:
    ours, feasts = apps
    entities = {"tenant_id": ["t"] * len(ASSETS), "asset_id": ASSETS}
    for request in REQUESTS:
        for given in (entities, {name: values[:1] for name, values in entities.items()}):
            content = json.dumps(request | {"entities": given}).encode()
            for _ in range(2):  # the second time the service is known
                assert post(ours, content) == post(feasts, content)
            assert post(ours, content)[0] == 200


MISTAKES: list[Any] = [
    {"features": ["types:nope"], "entities": key("0")},
    {"features": ["types:nope"], "entities": {"tenant_id": ["t"], "asset_id": ["0"]}},
    {"features": ["nope:nope"], "entities": {"tenant_id": ["t"], "asset_id": ["0"]}},
    {"feature_service": "nope", "entities": {"tenant_id": ["t"], "asset_id": ["0"]}},
    {"features": ["a:a"], "entities": {"tenant_id": ["t"], "asset_id": []}},
    {"features": ["a:a"], "entities": {}},
    {"features": "a:a", "entities": {}},
    {"features": ["a:a"]},
    [],
]


def test_mistakes__are_answered_as_feast_answers_them(apps: tuple[ASGIApp, ASGIApp]) -> None:
    ours, feasts = apps
    for mistake in MISTAKES:
        content = json.dumps(mistake).encode()
        actual = post(ours, content)
        assert actual == post(feasts, content)
        assert actual[0] >= 400
    for content, kind in ((b"{", "application/json"), (b"", "application/json"), (b"{}", "text/plain")):
        assert post(ours, content, kind) == post(feasts, content, kind)


class Tokens:
    """A token is the user's role."""

    def extract_access_token(self, *, request: Any) -> str:
        return str(request.headers["authorization"])

    async def user_details_from_access_token(self, access_token: str) -> User:
        return User(username=access_token, roles=[access_token])


@pytest.fixture
def permissions(pair: Pair) -> Iterator[None]:
    """Whoever has the role `reader` may read views and services."""
    reader = Permission(
        name="readers",
        types=[FeatureView, FeatureService],
        policy=RoleBasedPolicy(roles=["reader"]),
        actions=[AuthzedAction.READ_ONLINE, AuthzedAction.DESCRIBE],
    )
    pair.ours.apply([reader])
    before = security_manager.get_security_manager()
    security_manager.set_security_manager(SecurityManager(pair.ours.project, pair.ours.registry))
    auth_manager.set_auth_manager(AuthManager(token_extractor=Tokens(), token_parser=Tokens()))
    yield
    security_manager._sm = before
    auth_manager._auth_manager = None


@pytest.mark.usefixtures("permissions")
def test_permissions__are_asked_for(apps: tuple[ASGIApp, ASGIApp]) -> None:
    ours, feasts = apps
    entities = {"tenant_id": ["t"], "asset_id": ["0"]}
    for what in ({"features": ["a:a"]}, {"feature_service": "service"}):
        content = json.dumps(what | {"entities": entities}).encode()
        for token, expected in (("", 401), ("stranger", 403), ("reader", 200)):
            actual = post(ours, content, token=token)
            assert actual == post(feasts, content, token=token)
            assert actual[0] == expected


# as deployment/test_servers.py does with the container's command
@pytest.mark.long
def test_command__serves_a_repository_until_it_is_stopped(
    pair: Pair, connection: str, tmp_path: Path
) -> None:
    registry = pair.ours.config.registry
    (tmp_path / "feature_store.yaml").write_text(
        json.dumps(
            {
                "project": pair.ours.project,
                "provider": "local",
                "registry": {"registry_type": "sql", "path": registry.path},
                "online_store": {"type": OURS, "connection_string": connection},
                "offline_store": {"type": "file"},
                "entity_key_serialization_version": 3,
            }
        )
    )
    port = free_port()
    command = [sys.executable, "-m", "feast_plugins.feature_server", "--port", str(port), str(tmp_path)]
    content = {"features": ["a:a"], "entities": {"tenant_id": ["t", "t"], "asset_id": ["0", "nobody"]}}

    def ask() -> Any:
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Content-Type": "application/json"}
        try:
            server.request("POST", "/get-online-features", json.dumps(content), headers)
            return json.loads(server.getresponse().read())
        except ConnectionError:
            return None
        finally:
            server.close()

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(lambda: ask() is not None)
        answer = ask()
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    assert answer["results"][-1]["values"] == [1.5, None]
    assert answer["results"][-1]["statuses"] == ["PRESENT", "NOT_FOUND"]

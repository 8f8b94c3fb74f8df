"""The feature server answers what Feast's own answers, on the same store."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from feast import FeatureService, Field
from feast.feature_server import get_app
from feast.types import Array, Bytes, Float64, Int64, String
from online_repo import Pair, view

from feast_plugins.feature_server import create_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

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
    return create_app(pair.ours), get_app(pair.ours)


def key(asset: str) -> dict[str, str]:
    return {"tenant_id": "t", "asset_id": asset}


def post(app: ASGIApp, content: bytes, kind: str = "application/json") -> tuple[int, bytes]:
    """Status and body."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/get-online-features",
        "raw_path": b"/get-online-features",
        "query_string": b"",
        "headers": [(b"content-type", kind.encode())],
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
        found = post(ours, content)
        assert found == post(feasts, content)
        assert found[0] >= 400
    for content, kind in ((b"{", "application/json"), (b"", "application/json"), (b"{}", "text/plain")):
        assert post(ours, content, kind) == post(feasts, content, kind)

"""How hostile requests to the REST service are made; the table of them is `hostile_inputs`.

A request is the bytes that are sent, or a function that makes them piece by piece. `@name@` in a header
stands for a credential of `hostile_world`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ASSET, TENANT, OTHER = "meter-008", "city-works", "other-works"
MODEL_ID = f"{TENANT}:load-forecast:v2.0.0"
MLMODEL = b64encode(b"flavors: {lightgbm: {}}\n").decode()
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Hostile:
    """One hostile request."""

    id: str
    request: bytes | Callable[[], Iterable[bytes]]
    status: int


def ask(
    target: str | bytes,
    body: Any = b"",
    *,
    method: str = "GET",
    key: str = "@good@",
    version: str = "1.1",
    **headers: str | bytes,
) -> bytes:
    """A request; `_` in names of headers is `-`, and JSON is made of what is no bytes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    head: dict[str, str | bytes] = {"Host": "service", "Connection": "close"}
    if key:
        head["X-API-Key"] = key
    if not isinstance(body, bytes):
        body, head = json.dumps(body).encode(), head | JSON
    if body:
        head["Content-Length"] = str(len(body))
    start = method.encode() + b" " + as_bytes(target) + f" HTTP/{version}".encode()
    lines = [start, *(as_bytes(name) + b": " + as_bytes(value) for name, value in (head | given).items())]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def get(path: str | bytes, **rest: Any) -> bytes:
    return ask(path, **rest)


def post(path: str, body: Any, **rest: Any) -> bytes:
    return ask(path, body, method="POST", **JSON_HEADER | rest)


JSON_HEADER = {"Content_Type": "application/json"}


def features(**fields: Any) -> bytes:
    body = {"tenant_id": TENANT, "asset_id": ASSET, "feature_set": "forecast_basic"} | fields
    return post("/ai/features/get", body)


def features_text(text: str | bytes, **headers: Any) -> bytes:
    return post("/ai/features/get", text if isinstance(text, bytes) else text.encode(), **headers)


def at(timestamp: Any) -> bytes:
    return features(timestamp=timestamp)


def asset(name: Any) -> bytes:
    return features(asset_id=name)


def export(query: str = "", **fields: Any) -> bytes:
    body = {
        "tenant_id": TENANT,
        "feature_set": "forecast_basic",
        "start_time": "2026-10-01T00:00:00Z",
        "end_time": "2026-11-01T00:00:00Z",
    } | fields
    return post(f"/ai/features/export{query}", body)


def place(path: Any) -> bytes:
    return export(output_path=path)


def exports(query: str) -> bytes:
    return get(f"/ai/features/exports?{query}")


def upload(**fields: Any) -> bytes:
    body = {
        "tenant_id": TENANT,
        "model_name": "demand-forecast",
        "metadata": {"model_type": "demand_forecast"},
        "artifact": {"type": "upload", "files": [{"path": "MLmodel", "content": MLMODEL}]},
    } | fields
    return post("/ai/models/register", body)


def file(path: str, content: str = "Zmxhdm9yczoge30K") -> bytes:
    files = [{"path": "MLmodel", "content": MLMODEL}, {"path": path, "content": content}]
    return upload(artifact={"type": "upload", "files": files})


def model(text: str | bytes, **rest: Any) -> bytes:
    return get(b"/ai/models/" + as_bytes(text), **rest)


def promote(text: str = MODEL_ID, body: Any = None, **fields: Any) -> bytes:
    body = body if body is not None else {"target_stage": "production", "reason": "better"} | fields
    return ask(f"/ai/models/{text}/promote", body, method="PUT")


def with_key(key: str, **headers: str) -> bytes:
    return post("/ai/features/get", {"tenant_id": TENANT, "asset_id": ASSET}, key=key, **headers)


def bearer(token: str) -> bytes:
    return with_key("", Authorization=f"Bearer {token}")


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def chunked(pieces: Iterable[bytes], path: str = "/ai/features/get") -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield ask(path, method="POST", Transfer_Encoding="chunked", **JSON_HEADER)
        for piece in pieces:
            yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"

    return send


def stream(pieces: Iterable[bytes]) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(pieces)


SQL = "x'; DROP TABLE assets; --"
FOUND = '{"tenant_id":"city-works","asset_id":"meter-008"'
FILL = b" " * 65_536
HEAD = b"GET /ai/features/sets HTTP/1.1\r\nHost: service\r\nX-API-Key: @good@\r\n"

"""The outermost layer: each request gets an id, a line in the log, a place in the metrics, and an answer."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Final

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from ai_hub.service.errors import internal
from ai_hub.service.middleware.paths import WATCHED, templates_of
from ai_hub.service.observability import metrics
from ai_hub.service.observability.logging import REQUEST

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = b"x-request-id"
_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT: Final = 499
_REFUSED: Final = 400
_FAILED: Final = 500
_LONGEST_PATH: Final = 300
_log = structlog.get_logger("ai_hub.requests")


class Requests:
    """Middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        request_id = given.decode() if _ACCEPTED.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], (HEADER, request_id.encode())]
            await send(message)

        clear_contextvars()
        bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            _log.exception("failed", path=scope["path"])
            if status:  # the answer had begun
                raise
            await internal(request_id)(scope, receive, send_with_id)
        finally:
            _note(scope, status or _CLIENT_LEFT, time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The whole template of the path, also where a request was refused before it met its endpoint."""
    templates = templates_of(scope["app"])
    route: str | None = getattr(scope.get("route"), "path", None)
    return route if route is not None and templates.has(route) else templates.of(scope["path"])


def _note(scope: Scope, status: int, seconds: float) -> None:
    state = scope["state"]
    route = _route(scope)
    feature_set = state.get("feature_set", "")
    # whoever asks can make methods up
    method = scope["method"] if scope["method"] in _METHODS else "other"
    metrics.count(method, route, status).inc()
    metrics.latency(route, feature_set).observe(seconds)
    principal = state.get("principal")
    event = {
        "method": method,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 2),
        "caller": principal.name if principal else None,
        "key_id": (principal.identity or None) if principal else state.get("key_id"),
        "client": client[0] if (client := scope.get("client")) else None,
    }
    if tenant := state.get("tenant"):
        event["tenant"] = tenant
    if feature_set:
        event["feature_set"] = feature_set
    # of a request that changes something: what
    event |= state.get("named", {})
    if status >= _REFUSED:
        # its text may be the caller's: whoever writes the log masks secrets in it
        event |= {"path": scope["path"][:_LONGEST_PATH], "reason": state.get("reason")}
    if status >= _FAILED:
        _log.error(REQUEST, **event)
    elif route in WATCHED:
        _log.debug(REQUEST, **event)
    else:
        _log.info(REQUEST, **event)

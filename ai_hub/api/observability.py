"""What operators see of each request: its id, a log line, metrics, and a trace."""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from structlog.contextvars import bind_contextvars

from ai_hub import metrics
from ai_hub.api.errors import internal
from ai_hub.api.http_protocol import BODY_COMPLETE, header
from ai_hub.api.logs import REQUEST
from ai_hub.api.paths import WATCHED, templates_of
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from prometheus_client.registry import Collector
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = b"x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Status in logs and metrics of a request without an answer.
CLIENT_LEFT: Final = 499
_REFUSED: Final = 400
_FAILED: Final = 500
_LONGEST_PATH: Final = 300
_log = structlog.get_logger("ai_hub.requests")
_BUCKETS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
#: Files of gauges that count while their process lives.
_LIVE: Final = re.compile(r"gauge_live[a-z]*_(\d+)\.db")
REQUESTS: Final = Counter(
    "ai_hub_http_requests", "Requests answered, by endpoint and status", ["method", "route", "status"]
)
LATENCY: Final = Histogram(
    "ai_hub_http_request_seconds",
    "Seconds from a request's head, or of one for features from the end of its body, to its answer, by"
    " endpoint and feature set",
    ["route", "feature_set"],
    buckets=_BUCKETS,
)
IN_FLIGHT: Final = Gauge("ai_hub_http_requests_in_flight", "Requests under way", multiprocess_mode="livesum")
REFUSED: Final = Counter(
    "ai_hub_http_refused", "Requests refused because too many were under way", ["route_group"]
)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NAME = "OTEL_SERVICE_NAME"
_DISABLED = "OTEL_SDK_DISABLED"


class RequestLog:
    """Outermost middleware: gives each request an id, logs and counts it, and answers 500 to defects."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        request_id = begin(state, header(scope, HEADER))
        status = 0
        has_left = False

        async def receive_or_note() -> Message:
            nonlocal has_left
            message = await receive()
            if message["type"] == "http.disconnect" and not state.get(BODY_COMPLETE):
                has_left = True  # the framework takes it for a bad request
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive_or_note, send_with_id)
        except Exception:
            _log.exception("request.failed", path=scope["path"])
            if status:  # the answer had begun
                raise
            await internal(request_id)(scope, receive, send_with_id)
        finally:
            log_request(
                scope, CLIENT_LEFT if has_left or not status else status, time.perf_counter() - started
            )


def begin(state: dict[str, Any], sent: bytes | None) -> str:
    """Give a request an id, in `state` and in its lines of the log: what it has `sent`, if it can be one."""
    if sent is None or not _REQUEST_ID.fullmatch(sent):
        request_id = f"{getrandbits(64):016x}"
    else:
        request_id = sent.decode()
    state["request_id"] = request_id
    bind_contextvars(request_id=request_id)
    return request_id


def _route(scope: Scope) -> str:
    """The whole template of the path, also where a request was refused before it met its endpoint."""
    templates = templates_of(scope["app"])
    route: str | None = getattr(scope.get("route"), "path", None)
    return route if route is not None and templates.has(route) else templates.of(scope["path"])


def log_request(scope: Scope, status: int, seconds: float) -> None:
    """Log a request that took `seconds`, and count it."""
    state = scope["state"]
    route = state.get("route") or _route(scope)
    feature_set = state.get("feature_set", "")
    # a caller can make methods up, and labels must be few
    method = scope["method"] if scope["method"] in _METHODS else "other"
    metrics.count(REQUESTS, (method, route, status))
    metrics.observe(LATENCY, (route, feature_set), seconds)
    principal = state.get("principal")
    event = {
        "request_id": state["request_id"],
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
    # set by `permit`: what the request is about
    event |= state.get("log_fields", {})
    if status >= _REFUSED:
        # may hold the caller's text: the log masks secrets in it
        event |= {"path": scope["path"][:_LONGEST_PATH], "reason": state.get("reason")}
    if status >= _FAILED:
        _log.error(REQUEST, **event)
    elif route in WATCHED:
        _log.debug(REQUEST, **event)
    else:
        _log.info(REQUEST, **event)


def remove_dead_workers() -> None:
    """Remove the live gauges of worker processes that are gone."""
    folder = os.environ.get(_DIRECTORY)
    if not folder:
        return
    found = {int(match[1]) for each in Path(folder).iterdir() if (match := _LIVE.fullmatch(each.name))}
    for process in found:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another worker that starts does the same
                mark_process_dead(process)  # type: ignore[no-untyped-call]
        except PermissionError:
            pass  # it lives, as somebody else


async def scrape(*collectors: Collector) -> bytes:
    """Every metric of every process of this service, and of `collectors`, as text.

    What any process has answered until now is counted, but for one that is too busy to flush in time.
    """
    metrics.flush()
    if os.environ.get(_DIRECTORY):
        await asyncio.sleep(2 * metrics.FLUSH_S)  # until the others have flushed
    return await asyncio.to_thread(exposition, *collectors)


def exposition(*collectors: Collector) -> bytes:
    """Every metric that was flushed, and those of `collectors`, as text."""
    if os.environ.get(_DIRECTORY):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry = REGISTRY
    text = generate_latest(registry)
    if collectors:
        more = CollectorRegistry()
        for each in collectors:
            more.register(each)
        text += generate_latest(more)
    return text


def is_tracing_on() -> bool:
    """Whether traces are configured (`OTEL_EXPORTER_OTLP_ENDPOINT`)."""
    return (
        any(os.environ.get(name) for name in _ENDPOINTS) and os.environ.get(_DISABLED, "").lower() != "true"
    )


def install_tracing(app: FastAPI) -> None:
    """Send a span for each request if tracing is configured; else import nothing.

    Raises:
        BadInputError: it is configured, and the extra `tracing` is not installed.
    """
    if not is_tracing_on():
        return
    try:
        middleware = import_module("opentelemetry.instrumentation.asgi").OpenTelemetryMiddleware
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
    except ImportError as error:
        raise BadInputError(
            "Traces are wanted (OTEL_EXPORTER_OTLP_ENDPOINT), but OpenTelemetry's parts are not installed.",
            hint="Install the extra `tracing`: pip install 'ai-hub[tracing]'.",
        ) from error
    app.add_middleware(middleware, tracer_provider=_provider(exporter()), exclude_spans=["receive", "send"])


def _provider(exporter: Any) -> Any:
    sdk = import_module("opentelemetry.sdk.trace")
    resources = import_module("opentelemetry.sdk.resources")
    export = import_module("opentelemetry.sdk.trace.export")
    # OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME go before what is given here
    name = os.environ.get(_NAME, "ai-hub")
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": name}))
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    return provider

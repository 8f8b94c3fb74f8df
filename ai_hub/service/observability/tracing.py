"""OpenTelemetry: off unless `OTEL_EXPORTER_OTLP_ENDPOINT` says where traces go.

Its other variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, …) mean what they mean everywhere.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from fastapi import FastAPI

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NAME = "OTEL_SERVICE_NAME"
_DISABLED = "OTEL_SDK_DISABLED"


def is_on() -> bool:
    """Whether somebody wants traces."""
    return (
        any(os.environ.get(name) for name in _ENDPOINTS) and os.environ.get(_DISABLED, "").lower() != "true"
    )


def install(app: FastAPI) -> None:
    """Send a span for each request, if somebody wants them; else nothing is imported.

    Raises:
        BadInputError: somebody does, and the extra is not installed.
    """
    if not is_on():
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

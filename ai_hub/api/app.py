"""The ASGI application."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from typing_extensions import override

from ai_hub.api import errors, logs
from ai_hub.api.admission import Admission, Limits
from ai_hub.api.http_protocol import ONLINE_ENDPOINT
from ai_hub.api.observability import RequestLog, install_tracing, is_tracing_on
from ai_hub.api.paths import PAGE, templates_of
from ai_hub.api.routes import (
    anomalies,
    assets,
    explanations,
    exports,
    features,
    forecasts,
    health,
    lineage,
    models,
    retraining,
)
from ai_hub.api.services import open_services
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from starlette.responses import Response
    from starlette.types import ASGIApp, Scope

_DESCRIPTION = """\
Features for inference, exports of features for training, and the model registry of OMARINO's AI Hub.

Every request names its tenant, and carries a key of that tenant (`X-API-Key`, made by `ai-hub keys create`)
or a bearer token. Every error is a JSON body that says what to do next.
"""


#: Headers that pages of other origins may send and read.
_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Range",
    "X-API-Key",
    "X-Request-ID",
)
_RESPONSE_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "Retry-After",
    "X-Request-ID",
)
_CORS_AGE_S = 600
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class _Page(StaticFiles):
    """Files of the page of forecasts, which no other page may frame, as people type keys into it."""

    @override
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response


def _cors(options: ServiceSettings) -> dict[str, Any]:
    """CORS for the configured origins; keys travel in headers, so no page can use another's."""
    return {
        "allow_origins": [origin.strip() for origin in options.cors_origins.split(",") if origin.strip()],
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": _REQUEST_HEADERS,
        "expose_headers": _RESPONSE_HEADERS,
        "max_age": _CORS_AGE_S,
    }


def _own_middleware(app: FastAPI) -> ASGIApp:
    """The stack without the framework's outermost layers: ours answer defects and limit bodies already."""
    stack: Any = app.build_middleware_stack()
    outermost: Any = app.user_middleware[0].cls
    while not isinstance(stack, outermost):
        stack = stack.app
    return cast("ASGIApp", stack)


def create_app(options: ServiceSettings | None = None, settings: Settings | None = None) -> FastAPI:
    """The service with these settings; default: those of the environment."""
    options = options or ServiceSettings()
    settings = settings or Settings()

    limits = Limits(options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            stack.enter_context(logs.batched())
            services = await stack.enter_async_context(open_services(options, settings))
            app.state.services = services
            templates_of(app)  # built here rather than with the first request
            # a trace is of what the framework sees
            yield {} if is_tracing_on() else {ONLINE_ENDPOINT: features.OnlineFeatures(services, limits)}

    app = FastAPIOffline(
        static_url="/docs/static",
        title="AI Hub",
        version=version("ai-hub"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # ours is installed below if it is configured; FastAPI's check costs time with each request
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # short names for the functions of generated clients
        generate_unique_id_function=lambda route: route.name,
    )
    errors.install(app)
    for module in (
        *(features, forecasts, exports, assets, anomalies, models, retraining, explanations, lineage, health),
    ):
        app.include_router(module.router)
    app.mount(PAGE, _Page(packages=[("ai_hub.api", "page")], html=True))
    # a request passes the last added first
    app.add_middleware(Admission, options=options, limits=limits)
    if options.cors_origins:
        app.add_middleware(CORSMiddleware, **_cors(options))
    app.add_middleware(RequestLog)
    install_tracing(app)
    app.middleware_stack = _own_middleware(app)
    return app

"""Feast's feature server, with a columnar `POST /get-online-features`.

    python -m feast_plugins.feature_server [--host HOST] [--port PORT] [--workers N] REPOSITORY

Everything else is Feast's: the other paths, authorization, metrics, workers, and the section `feature_server`
of `feature_store.yaml`. `create_app` returns the app for another ASGI server; `serve` replaces `feast serve`.
"""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

import argparse
import json
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from fastapi import Response
from fastapi.responses import JSONResponse
from feast import feature_server as feast_server
from feast import metrics
from feast.constants import DEFAULT_FEATURE_SERVER_REGISTRY_TTL
from feast.feature_server_utils import convert_response_to_dict
from feast.infra.feature_servers.base_config import MetricsConfig
from feast.permissions.security_manager import get_security_manager
from feast.permissions.server.rest import inject_user_details
from feast.permissions.server.utils import (
    ServerType,
    init_auth_manager,
    init_security_manager,
    str_to_auth_manager_type,
)
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import Route

from feast_plugins.online.plan import state_of
from feast_plugins.online.reading import ColumnarResponse, json_body
from feast_plugins.registry import Store

if TYPE_CHECKING:
    from fastapi import FastAPI
    from feast import FeatureService, FeatureStore
    from feast.online_response import OnlineResponse
    from starlette.types import Message, Receive, Scope, Send

PATH = "/get-online-features"
_KEEP_ALIVE_S = 30

_user_details = asynccontextmanager(inject_user_details)


def create_app(store: FeatureStore, registry_ttl_sec: int = DEFAULT_FEATURE_SERVER_REGISTRY_TTL) -> FastAPI:
    """Feast's app for `store`, which reloads the registry every `registry_ttl_sec` seconds."""
    return accelerated(feast_server.get_app(store, registry_ttl_sec), store)


def accelerated(app: FastAPI, store: FeatureStore) -> FastAPI:
    """Feast's app with the columnar route before its own."""
    (feast_route,) = [route for route in app.router.routes if isinstance(route, Route) and route.path == PATH]
    app.router.routes.insert(0, Route(PATH, OnlineFeatures(store, feast_route), methods=["POST"]))
    return app


def serve(store: FeatureStore, host: str, port: int, *, workers: int, registry_ttl_sec: int) -> None:
    """Serve until stopped, with `workers` processes."""
    auth = store.config.auth_config
    kind = str_to_auth_manager_type(auth.type)
    init_security_manager(auth_type=kind, fs=store)
    init_auth_manager(auth_type=kind, server_type=ServerType.REST, auth_config=auth)
    settings = getattr(store.config.feature_server, "metrics", None)
    if measured := bool(getattr(settings, "enabled", False)):
        # the workers monitor resources and freshness, as those of `feast serve`
        metrics.start_metrics_server(
            store,
            metrics_config=metrics.build_metrics_flags(settings),
            start_resource_monitoring=False,
            start_freshness_monitoring=False,
        )
    _Server(
        store,
        metrics_enabled=measured,
        bind=f"{host}:{port}",
        workers=workers,
        registry_ttl_sec=registry_ttl_sec,
        keepalive=_KEEP_ALIVE_S,
    ).run()


class _Server(feast_server.FeastServeApplication):
    def load(self) -> FastAPI:
        return accelerated(super().load(), self._store)


class OnlineFeatures:
    """ASGI app of the path. Invalid requests go to Feast's route, which reports the error."""

    def __init__(self, store: FeatureStore, feast_route: Route) -> None:
        self._store = store
        self._feast_route = feast_route
        self._registry_state: Any = None
        self._services: dict[str, FeatureService] = {}
        settings = getattr(store.config.feature_server, "metrics", None) or MetricsConfig()
        self._bins = settings.feature_count_bins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        content = await request.body()
        body = _parsed(request, content)
        if body is None or metrics._config.audit_logging:  # noqa: SLF001  # Feast's switch
            await self._delegate(scope, content, receive, send)
            return
        authorized = get_security_manager() is not None
        async with _user_details(request) if authorized else nullcontext():
            response = await self._answer(body, authorized=authorized)
        if isinstance(response, ColumnarResponse):
            answer = Response(json_body(response), media_type="application/json")
        else:
            answer = JSONResponse(convert_response_to_dict(response.proto))
        await answer(scope, receive, send)

    async def _answer(
        self, body: feast_server.GetOnlineFeaturesRequest, *, authorized: bool
    ) -> OnlineResponse:
        with metrics.track_request_latency(PATH) as latency:
            if authorized:
                features = await feast_server._get_features(body, self._store)  # noqa: SLF001  # asks permission
            elif body.feature_service:
                features = await self._service(body.feature_service)
            else:
                features = body.features
            count, latency.feature_view_count = feast_server._resolve_feature_counts(features)  # noqa: SLF001
            latency.feature_count = feast_server.bin_feature_count(int(count), self._bins)
            metrics.track_online_features_entities(len(next(iter(body.entities.values()), [])))
            return await self._store.get_online_features_async(
                features,
                body.entities,
                body.full_feature_names,
                body.include_feature_view_version_metadata,
            )

    async def _service(self, name: str) -> FeatureService:
        registry = self._store.registry
        state = state_of(registry)
        if state is not None and state == self._registry_state and (cached := self._services.get(name)):
            return cached
        service = await run_in_threadpool(self._store.get_feature_service, name, allow_cache=True)
        state_after = state_of(registry)
        if state_after != self._registry_state:
            self._registry_state, self._services = state_after, {}
        if state == state_after is not None:
            self._services[name] = service
        return service

    async def _delegate(self, scope: Scope, content: bytes, receive: Receive, send: Send) -> None:
        """Pass the request to Feast's route, with the body that was read already."""
        unread_bodies = [content]

        async def replay() -> Message:
            if unread_bodies:
                return {"type": "http.request", "body": unread_bodies.pop(), "more_body": False}
            return await receive()

        _, child_scope = self._feast_route.matches(scope)
        scope.update(child_scope)
        await self._feast_route.handle(scope, replay, send)


def _parsed(request: Request, content: bytes) -> feast_server.GetOnlineFeaturesRequest | None:
    """The request as Feast parses it; None if it is invalid."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return None
    try:
        return feast_server.GetOnlineFeaturesRequest.model_validate(json.loads(content))
    except (ValidationError, ValueError):
        return None


def main() -> None:
    """Serve a repository."""
    parser = argparse.ArgumentParser(prog="python -m feast_plugins.feature_server", description=__doc__)
    parser.add_argument("repository", help="folder with feature_store.yaml")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=6566, help="port to serve on (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--registry-ttl",
        type=int,
        default=DEFAULT_FEATURE_SERVER_REGISTRY_TTL,
        help="seconds after which the registry is reloaded (default: %(default)s)",
    )
    arguments = parser.parse_args()
    store = Store(arguments.repository)
    serve(
        store,
        arguments.host,
        arguments.port,
        workers=arguments.workers,
        registry_ttl_sec=arguments.registry_ttl,
    )


if __name__ == "__main__":
    main()

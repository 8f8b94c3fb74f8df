"""Feast's feature server, whose `POST /get-online-features` answers from columns.

    python -m feast_plugins.feature_server [--host HOST] [--port PORT] [--workers N] REPOSITORY

Everything else is Feast's: the other paths, authorization, metrics, workers, and what `feature_store.yaml`
says under `feature_server`. `create_app` is for an ASGI server of one's own, `serve` does what `feast serve`
does.
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
from feast import FeatureStore, metrics
from feast import feature_server as feast_server
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

from feast_plugins.online.answer import ColumnarResponse, json_body
from feast_plugins.online.plan import state_of

if TYPE_CHECKING:
    from fastapi import FastAPI
    from feast import FeatureService
    from feast.online_response import OnlineResponse
    from starlette.types import Message, Receive, Scope, Send

PATH = "/get-online-features"
_KEEP_ALIVE_S = 30

_user_details = asynccontextmanager(inject_user_details)


def create_app(store: FeatureStore, registry_ttl_sec: int = DEFAULT_FEATURE_SERVER_REGISTRY_TTL) -> FastAPI:
    """Feast's app for `store`; it reads the registry anew every `registry_ttl_sec` seconds."""
    return accelerated(feast_server.get_app(store, registry_ttl_sec), store)


def accelerated(app: FastAPI, store: FeatureStore) -> FastAPI:
    """Feast's app with our answer before its own."""
    (theirs,) = [route for route in app.router.routes if isinstance(route, Route) and route.path == PATH]
    app.router.routes.insert(0, Route(PATH, OnlineFeatures(store, theirs), methods=["POST"]))
    return app


def serve(store: FeatureStore, host: str, port: int, *, workers: int, registry_ttl_sec: int) -> None:
    """Serve until stopped, with `workers` processes."""
    auth = store.config.auth_config
    kind = str_to_auth_manager_type(auth.type)
    init_security_manager(auth_type=kind, fs=store)
    init_auth_manager(auth_type=kind, server_type=ServerType.REST, auth_config=auth)
    settings = getattr(store.config.feature_server, "metrics", None)
    if measured := bool(getattr(settings, "enabled", False)):
        # its workers watch resources and freshness, as those of `feast serve`
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
    """The path's ASGI app. A request that is not in order is left to Feast's route, which says why."""

    def __init__(self, store: FeatureStore, theirs: Route) -> None:
        self._store = store
        self._theirs = theirs
        self._registry_state: Any = None
        self._services: dict[str, FeatureService] = {}
        settings = getattr(store.config.feature_server, "metrics", None) or MetricsConfig()
        self._bins = settings.feature_count_bins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        content = await request.body()
        asked = _parsed(request, content)
        if asked is None or metrics._config.audit_logging:  # noqa: SLF001  # Feast's switch
            await self._leave(scope, content, receive, send)
            return
        authorized = get_security_manager() is not None
        async with _user_details(request) if authorized else nullcontext():
            response = await self._answer(asked, authorized=authorized)
        if isinstance(response, ColumnarResponse):
            answer = Response(json_body(response), media_type="application/json")
        else:
            answer = JSONResponse(convert_response_to_dict(response.proto))
        await answer(scope, receive, send)

    async def _answer(
        self, asked: feast_server.GetOnlineFeaturesRequest, *, authorized: bool
    ) -> OnlineResponse:
        with metrics.track_request_latency(PATH) as noted:
            if authorized:
                features = await feast_server._get_features(asked, self._store)  # noqa: SLF001  # asks permission
            elif asked.feature_service:
                features = await self._service(asked.feature_service)
            else:
                features = asked.features
            count, noted.feature_view_count = feast_server._resolve_feature_counts(features)  # noqa: SLF001
            noted.feature_count = feast_server.bin_feature_count(int(count), self._bins)
            metrics.track_online_features_entities(len(next(iter(asked.entities.values()), [])))
            return await self._store.get_online_features_async(
                features,
                asked.entities,
                asked.full_feature_names,
                asked.include_feature_view_version_metadata,
            )

    async def _service(self, name: str) -> FeatureService:
        registry = self._store.registry
        state = state_of(registry)
        if state is not None and state == self._registry_state and (known := self._services.get(name)):
            return known
        found = await run_in_threadpool(self._store.get_feature_service, name, allow_cache=True)
        after = state_of(registry)
        if after != self._registry_state:
            self._registry_state, self._services = after, {}
        if state == after is not None:
            self._services[name] = found
        return found

    async def _leave(self, scope: Scope, content: bytes, receive: Receive, send: Send) -> None:
        """Let Feast's route answer, which has yet to read the content."""
        unread = [content]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        _, found = self._theirs.matches(scope)
        scope.update(found)
        await self._theirs.handle(scope, replay, send)


def _parsed(request: Request, content: bytes) -> feast_server.GetOnlineFeaturesRequest | None:
    """The request as Feast parses it; None: it is not in order."""
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
    parser.add_argument("--workers", type=int, default=1, help="processes that answer (default: %(default)s)")
    parser.add_argument(
        "--registry-ttl",
        type=int,
        default=DEFAULT_FEATURE_SERVER_REGISTRY_TTL,
        help="seconds after which the registry is read anew (default: %(default)s)",
    )
    given = parser.parse_args()
    store = FeatureStore(given.repository)
    serve(store, given.host, given.port, workers=given.workers, registry_ttl_sec=given.registry_ttl)


if __name__ == "__main__":
    main()

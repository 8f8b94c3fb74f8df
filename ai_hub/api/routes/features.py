"""Features for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.http_protocol import header
from ai_hub.api.paths import ONLINE
from ai_hub.api.schemas.features import (
    FeaturesBatchResponse,
    FeatureSet,
    FeatureSetsResponse,
    FeaturesRequest,
    FeaturesResponse,
)
from ai_hub.api.services import AUTHENTICATED, Caller, Limit, Offset, services_of
from ai_hub.errors import AiHubError
from ai_hub.features.online.reader import FeatureRequest
from ai_hub.features.store import feature_names

if TYPE_CHECKING:
    from starlette import types as asgi

    from ai_hub.access.principal import Principal
    from ai_hub.api.services import Services

router = APIRouter(prefix="/ai/features", tags=["features"], dependencies=AUTHENTICATED)

_JSON: Final = "application/json"
_VIEW_STORAGE: Final = "TimescaleDB view {views}; Redis"


@router.post(
    "/get",
    response_model=FeaturesResponse | FeaturesBatchResponse,
    responses=errors.responses(400, 401, 403, 404, 408, 413, 422, 429, 503),
)
async def get_features(body: FeaturesRequest, request: Request, caller: Caller) -> Response:
    """Features of one asset, or of many, at a time."""
    content = await _features(body, caller, services_of(request), request.scope["state"])
    return Response(content, media_type=_JSON)


class OnlineFeatures:
    """Middleware: answers valid requests for features, before FastAPI, which takes longer than reading them.

    Any other request goes to FastAPI, which says what is wrong with it.
    """

    def __init__(self, app: asgi.ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http" or scope["path"] != ONLINE or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        state["route"] = ONLINE
        body = await _read_body(receive)
        if body is None:
            return
        request = _parse(scope, body)
        if request is None:
            await self._app(scope, _replay(body, receive), send)
            return
        try:
            content = await _features(request, state["principal"], scope["app"].state.services, state)
        except AiHubError as error:
            await errors.answer(error, scope)(scope, receive, send)
            return
        headers = [(b"content-type", _JSON.encode()), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@router.get("/sets", responses=errors.responses(401, 422, 429, 503))
async def list_feature_sets(
    request: Request, caller: Caller, limit: Limit = 1000, offset: Offset = 0
) -> FeatureSetsResponse:
    """Every feature set there is, by name."""
    del caller  # whoever is authenticated
    every = await services_of(request).features.catalog.sets()
    sets = {}
    for service, views in every[offset : offset + limit]:
        tags = service.tags or {}
        sets[service.name] = FeatureSet(
            name=service.name,
            description=service.description or tags.get("description", ""),
            features=feature_names(service),
            use_cases=[case.strip() for case in tags.get("use_cases", "").split(",") if case.strip()],
            latency=tags.get("latency", ""),
            storage=_VIEW_STORAGE.format(views=", ".join(views)),
        )
    return FeatureSetsResponse(feature_sets=sets, total=len(every))


async def _features(
    request: FeaturesRequest, caller: Principal, services: Services, state: dict[str, Any]
) -> bytes:
    """The response's body; `state` gets the tenant and the feature set for logs and metrics.

    Raises:
        AiHubError: the request cannot be answered.
    """
    state["tenant"] = request.tenant_id
    caller.require(Scope.FEATURES_READ, request.tenant_id)
    is_single = request.asset_id is not None
    assets = [request.asset_id] if request.asset_id is not None else request.asset_ids or []
    if len(assets) > (limit := services.options.max_assets):
        raise errors.MalformedError(
            f"asset_ids names {len(assets)} assets; at most {limit} are answered at once.",
            hint="Ask for them in several requests.",
        )
    answer = await services.features.read(
        FeatureRequest(
            request.tenant_id,
            list(dict.fromkeys(assets)),
            request.timestamp,
            request.lookback_hours,
            request.feature_set,
            request.feature_names,
            must_exist=is_single,
        )
    )
    state["feature_set"] = answer.label
    body: dict[str, Any] = {"tenant_id": request.tenant_id, "timestamp": answer.timestamp}
    if is_single:
        body |= answer.results[0]
    else:
        by_asset = {result["asset_id"]: result for result in answer.results}
        results = [by_asset[asset] for asset in assets]
        body |= {
            "results": results,
            "total": len(results),
            "degraded": any(result["degraded"] for result in results),
            "computed_at": answer.computed_at,
        }
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


async def _read_body(receive: asgi.Receive) -> bytes | None:
    """The request's body; None: the client has left."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: asgi.Receive) -> asgi.Receive:
    """A `receive` that begins with `body`, which was read already."""
    unread = [body]

    async def replay() -> asgi.Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay


def _parse(scope: asgi.Scope, body: bytes) -> FeaturesRequest | None:
    """The request; None: it is not valid."""
    content_type = header(scope, b"content-type") or b""
    if content_type.partition(b";")[0].strip().lower() != _JSON.encode():
        return None
    try:
        return FeaturesRequest.model_validate_json(body)
    except ValidationError:
        return None

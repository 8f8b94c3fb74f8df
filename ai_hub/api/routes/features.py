"""Features for inference."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from ai_hub.access.principal import Scope
from ai_hub.api import errors, observability
from ai_hub.api.http_protocol import Answer
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
    from collections.abc import Mapping

    from starlette import types as asgi

    from ai_hub.access.principal import Principal
    from ai_hub.api.admission import Limits
    from ai_hub.api.services import Services

router = APIRouter(prefix="/ai/features", tags=["features"], dependencies=AUTHENTICATED)

_JSON: Final = "application/json"
_JSON_HEADER: Final = (b"content-type", _JSON.encode())
_log = structlog.get_logger("ai_hub.requests")
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
    """Answers requests for features that are in order, ahead of the framework.

    Any other request goes to the framework, which says what is wrong with it.
    """

    def __init__(self, services: Services, limits: Limits) -> None:
        self._services = services
        self._limits = limits

    async def answer(self, scope: asgi.Scope, body: bytearray) -> Answer | None:
        """The answer to a request; None: it is the framework's."""
        started = time.perf_counter()
        headers = dict(reversed(scope["headers"]))  # of several with a name the first
        if b"origin" in headers:  # of a page, which may need an answer for browsers
            return None
        principal = self._limits.known_caller(scope, headers, len(body), self._services.authenticator)
        if principal is None or (request := _parse(headers, body)) is None:
            return None
        state = scope["state"]
        state["route"], state["principal"] = ONLINE, principal
        request_id = observability.begin(state, headers.get(observability.HEADER))
        status = observability.CLIENT_LEFT
        try:
            with self._limits.slot(principal):
                content = await _features(request, principal, self._services, state)
            status = HTTPStatus.OK.value
            sent = [_JSON_HEADER, (b"content-length", b"%d" % len(content))]
        except Exception as error:  # noqa: BLE001  # as the outermost middleware does
            if isinstance(error, AiHubError):
                response = errors.answer(error, scope)
            else:
                _log.exception("request.failed", path=ONLINE)
                response = errors.internal(request_id)
            status, sent, content = int(response.status_code), response.raw_headers, bytes(response.body)
        finally:
            observability.log_request(scope, status, time.perf_counter() - started)
        return Answer(status, [*sent, (observability.HEADER, request_id.encode())], content)


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


def _parse(headers: Mapping[bytes, bytes], body: bytearray) -> FeaturesRequest | None:
    """The request; None: it is not valid."""
    kind = headers.get(b"content-type", b"")
    if kind != _JSON.encode() and kind.partition(b";")[0].strip().lower() != _JSON.encode():
        return None
    try:
        return FeaturesRequest.model_validate_json(body)
    except ValidationError:
        return None

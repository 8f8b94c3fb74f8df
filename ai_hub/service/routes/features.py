"""Features for inference."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from ai_hub.access.principal import Scope
from ai_hub.features.store import feature_names
from ai_hub.service import errors
from ai_hub.service.dependencies import AUTHENTICATED, Caller, Limit, Offset, state_of
from ai_hub.service.schemas.features import (
    FeaturesBatchResponse,
    FeatureSet,
    FeatureSetsResponse,
    FeaturesRequest,
    FeaturesResponse,
)
from ai_hub.serving.reader import Asked

if TYPE_CHECKING:
    from ai_hub.access.principal import Principal
    from ai_hub.service.state import State

router = APIRouter(prefix="/ai/features", tags=["features"], dependencies=AUTHENTICATED)

_VIEW_STORAGE = "TimescaleDB view {views}; Redis"


async def answer(asked: FeaturesRequest, caller: Principal, parts: State, noted: dict[str, Any]) -> bytes:
    """The answer as JSON; `noted` gets what logs and metrics tell of the request.

    Raises:
        AiHubError: there is none.
    """
    noted["tenant"] = asked.tenant_id
    caller.require(Scope.FEATURES_READ, asked.tenant_id)
    one = asked.asset_id is not None
    assets = [asked.asset_id] if asked.asset_id is not None else asked.asset_ids or []
    if len(assets) > (most := parts.options.max_assets):
        raise errors.MalformedError(
            f"asset_ids names {len(assets)} assets; at most {most} are answered at once.",
            hint="Ask for them in several requests.",
        )
    read = await parts.features.read(
        Asked(
            asked.tenant_id,
            list(dict.fromkeys(assets)),
            asked.timestamp,
            asked.lookback_hours,
            asked.feature_set,
            asked.feature_names,
            must_exist=one,
        )
    )
    noted["feature_set"] = read.label
    head = {"tenant_id": asked.tenant_id, "timestamp": read.timestamp}
    body: dict[str, Any]
    if one:
        body = head | read.results[0]
    else:
        found = {each["asset_id"]: each for each in read.results}
        results = [found[asset] for asset in assets]
        body = head | {
            "results": results,
            "total": len(results),
            "degraded": any(each["degraded"] for each in results),
            "computed_at": read.computed_at,
        }
    return orjson.dumps(body, default=_base64, option=orjson.OPT_UTC_Z)


def _base64(value: Any) -> str:
    """Features of the type Bytes, as Feast's feature server sends them."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return b64encode(value).decode()


@router.post(
    "/get",
    response_model=FeaturesResponse | FeaturesBatchResponse,
    responses=errors.responses(400, 401, 403, 404, 408, 413, 422, 429, 503),
)
async def get_features(asked: FeaturesRequest, request: Request, caller: Caller) -> Response:
    """Features of one asset, or of many, at a time."""
    content = await answer(asked, caller, state_of(request), request.scope["state"])
    return Response(content, media_type="application/json")


@router.get("/sets", responses=errors.responses(401, 422, 429, 503))
async def list_feature_sets(
    request: Request, caller: Caller, limit: Limit = 1000, offset: Offset = 0
) -> FeatureSetsResponse:
    """Every feature set there is, by name."""
    del caller  # whoever is authenticated
    every = await state_of(request).features.catalog.sets()
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

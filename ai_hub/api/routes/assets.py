"""Which assets a tenant has."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.schemas.common import Asset, AssetId, AssetList
from ai_hub.api.services import (
    AUTHENTICATED,
    Caller,
    Limit,
    Offset,
    TenantQuery,
    own_tenant,
    permit,
    services_of,
)

router = APIRouter(prefix="/ai/assets", tags=["assets"], dependencies=AUTHENTICATED)

_Kind = Annotated[
    str | None,
    Query(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200, description="default: every kind"),
]

_Ids = Annotated[
    list[AssetId] | None,
    Query(max_length=100, description="only these; may be repeated", examples=[["meter-008"]]),
]


@router.get("", response_model=AssetList, responses=errors.responses(400, 401, 403, 422, 429, 503))
async def list_assets(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    kind: _Kind = None,
    asset_id: _Ids = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> AssetList:
    """A tenant's assets, by id."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FEATURES_READ, tenant)
    found, total = await services_of(request).assets.page(tenant, kind, asset_id, limit, offset)
    return AssetList(assets=[Asset.model_validate(each) for each in found], total=total, tenant_id=tenant)

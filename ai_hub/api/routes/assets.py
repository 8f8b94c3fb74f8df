"""Which assets a tenant has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from psycopg.rows import dict_row

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.dependencies import AUTHENTICATED, Caller, Limit, Offset, own_tenant, permit, services_of
from ai_hub.api.schemas.assets import Asset, AssetList
from ai_hub.api.schemas.common import AssetId, TenantId
from ai_hub.exports.database import transaction

if TYPE_CHECKING:
    from ai_hub.settings import Settings

_THREADS: Final = 2
_WHERE: Final = (
    "WHERE tenant_id = %(tenant)s AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
    " AND (%(assets)s::text[] IS NULL OR asset_id = ANY (%(assets)s))"
)
_PAGE: Final = f"""
SELECT asset_id, kind, unit, feature_unit, timezone, latitude, longitude, capacity
FROM assets {_WHERE} ORDER BY asset_id LIMIT %(limit)s OFFSET %(offset)s
"""  # noqa: S608  # constants
_COUNT: Final = f"SELECT count(*) FROM assets {_WHERE}"  # noqa: S608  # constants


class AssetRepository:
    """Reads as the service's login, which sees one tenant."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def page(
        self, tenant: str, kind: str | None, assets: list[str] | None, limit: int, offset: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Assets by id (of `assets`, or all), and how many there are in all.

        Raises:
            ServiceDownError: the database does not answer.
        """
        values = {"tenant": tenant, "kind": kind, "assets": assets, "limit": limit, "offset": offset}

        def read() -> tuple[list[dict[str, Any]], int]:
            with transaction(self._settings, tenant) as connection:
                with connection.cursor(row_factory=dict_row) as cursor:
                    found = cursor.execute(_PAGE.encode(), values).fetchall()
                row = connection.execute(_COUNT.encode(), values).fetchone()
            return found, row[0] if row else 0

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)


router = APIRouter(prefix="/ai/assets", tags=["assets"], dependencies=AUTHENTICATED)

_Tenant = Annotated[
    TenantId | None, Query(description="default: the tenant of the key", examples=["city-works"])
]
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
    tenant_id: _Tenant = None,
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

"""Lineage: where versions and forecasts come from, and what was made of files and assets."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Request

from ai_hub.access.principal import Scope
from ai_hub.api import errors, model_ids
from ai_hub.api.schemas.common import AssetId
from ai_hub.api.schemas.lineage import LineageOf
from ai_hub.api.services import AUTHENTICATED, Caller, TenantQuery, own_tenant, permit, services_of
from ai_hub.errors import NotFoundError
from ai_hub.forecasting import lineage

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    from ai_hub.access.principal import Principal
    from ai_hub.api.services import Services

router = APIRouter(prefix="/ai/lineage", tags=["lineage"], dependencies=AUTHENTICATED)

_RESPONSES = errors.responses(400, 401, 403, 404, 422, 429, 503)
_ModelId = Annotated[
    str, Path(description="tenant:model:version", examples=["city-works:demand-forecast:v1.2.0"])
]
_ForecastId = Annotated[UUID, Path(examples=["0193d4a1-7c00-7000-8000-0b8a6c1f2e90"])]
_AssetId = Annotated[AssetId, Path(examples=["meter-008"])]
_ImportName = Annotated[
    str,
    Path(
        pattern=r"^[^\x00-\x1f\x7f/]+$",
        max_length=255,
        description="name of a file without its folder, its SHA-256, or the id of an import",
        examples=["meters.csv"],
    ),
]


@router.get("/models/{model_id}", response_model=LineageOf, responses=_RESPONSES)
async def get_model_lineage(caller: Caller, request: Request, model_id: _ModelId) -> LineageOf:
    """Files that a version was trained on, and what was forecast with it."""
    tenant, model, version = model_ids.parse(model_id)
    services = _permitted(request, caller, tenant)
    trained = await services.models.run_as(
        caller, lambda known: known.trained_version(tenant, model, version)
    )
    return await _answer(services, tenant, partial(lineage.of_version, trained=trained))


@router.get("/forecasts/{forecast_id}", response_model=LineageOf, responses=_RESPONSES)
async def get_forecast_lineage(
    *, caller: Caller, request: Request, forecast_id: _ForecastId, tenant_id: TenantQuery = None
) -> LineageOf:
    """Files and version that a forecast was made of, and what forecasts of its days were worth."""
    services = _permitted(request, caller, tenant := own_tenant(caller, tenant_id))
    run = await services.forecasts.find(tenant, forecast_id)
    trained = None
    if (number := run.version) is not None:
        with suppress(NotFoundError):  # the answer says so
            trained = await services.models.run_as(
                caller, lambda known: known.trained_version(tenant, run.model, str(number))
            )
    return await _answer(services, tenant, partial(lineage.of_forecast, run=run, trained=trained))


@router.get("/imports/{name}", response_model=LineageOf, responses=_RESPONSES)
async def get_import_lineage(
    *, caller: Caller, request: Request, name: _ImportName, tenant_id: TenantQuery = None
) -> LineageOf:
    """Versions that were trained on a file, and what was forecast with them or from it."""
    services = _permitted(request, caller, tenant := own_tenant(caller, tenant_id))
    found = await services.forecasts.trace(tenant, partial(lineage.find_import, tenant=tenant, name=name))
    trained = await services.models.run_as(caller, lambda known: known.trained_versions(tenant))
    of_import = partial(lineage.of_import, tenant=tenant, found=found, trained=trained)
    return await _answer(services, tenant, of_import)


@router.get("/assets/{asset_id}", response_model=LineageOf, responses=_RESPONSES)
async def get_asset_lineage(
    *, caller: Caller, request: Request, asset_id: _AssetId, tenant_id: TenantQuery = None
) -> LineageOf:
    """Files of an asset, versions that were trained on it, and its forecasts."""
    services = _permitted(request, caller, tenant := own_tenant(caller, tenant_id))
    await services.assets.require(tenant, asset_id)
    trained = await services.models.run_as(caller, lambda known: known.trained_versions(tenant))
    of_asset = partial(lineage.of_asset, tenant=tenant, asset=asset_id, trained=trained)
    return await _answer(services, tenant, of_asset)


def _permitted(request: Request, caller: Principal, tenant: str) -> Services:
    """Lineage is about readings, versions and forecasts: who may not read one of them gets none."""
    for scope in (Scope.FEATURES_READ, Scope.FORECASTS_READ, Scope.MODELS_READ):
        permit(request, caller, scope, tenant)
    return services_of(request)


async def _answer(
    services: Services, tenant: str, trace: Callable[[Connection[Any]], lineage.Lineage]
) -> LineageOf:
    return LineageOf.of(tenant, await services.forecasts.trace(tenant, trace))

"""Exports of features to Parquet."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request

from ai_hub.access.principal import Scope
from ai_hub.errors import BadInputError
from ai_hub.exports.errors import TooManyExportsError
from ai_hub.exports.jobs import STATUSES
from ai_hub.exports.request import Request as Wanted
from ai_hub.service import errors
from ai_hub.service.dependencies import AUTHENTICATED, Caller, state_of
from ai_hub.service.links import links
from ai_hub.service.schemas.common import FeatureSetName, TenantId
from ai_hub.service.schemas.exports import ExportJob, ExportList, ExportRequest, ExportSummary, IdempotencyKey

router = APIRouter(prefix="/ai/features", tags=["exports"], dependencies=AUTHENTICATED)

_Tenant = Annotated[TenantId, Query(examples=["city-works"])]
_ExportId = Annotated[UUID, Path(examples=["0f2c6a52-9b1e-4a0e-8a50-3f4f0a6f7d55"])]


@router.post(
    "/export",
    status_code=202,
    response_model=ExportJob,
    responses=errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
    | {202: links("get_export", "cancel_export", export_id="export_id", tenant_id="tenant_id")},
)
async def create_export(
    caller: Caller,
    request: Request,
    body: ExportRequest,
    wait_s: Annotated[
        float,
        Query(
            ge=0,
            le=300,
            description="seconds the answer may wait for the job to finish; where many wait, none",
        ),
    ] = 30,
    idempotency_key: Annotated[IdempotencyKey | None, Header(description="as in the body")] = None,
) -> ExportJob:
    """Export a feature set's rows in a window of time as Parquet."""
    caller.require(Scope.EXPORTS_WRITE, body.tenant_id)
    if None not in {idempotency_key, body.idempotency_key} and idempotency_key != body.idempotency_key:
        raise BadInputError(
            "The header Idempotency-Key and the field idempotency_key differ.", hint="Send one of them."
        )
    wanted = Wanted(
        body.tenant_id,
        body.feature_set,
        body.start_time,
        body.end_time,
        None if body.asset_ids is None else tuple(body.asset_ids),
        body.output_path,
        body.partition_by,
    )
    desk = state_of(request).exports
    try:
        job = await desk.submit(wanted, body.idempotency_key or idempotency_key, caller.name)
    except TooManyExportsError as error:
        raise errors.TooManyRequestsError(error.message, hint=error.hint) from error
    return ExportJob.of(await desk.wait(job, wait_s, partial(_left, request)))


@router.get("/exports", response_model=ExportList, responses=errors.responses(400, 401, 403, 422, 429, 503))
async def list_exports(
    *,
    caller: Caller,
    request: Request,
    tenant_id: _Tenant,
    feature_set: Annotated[FeatureSetName | None, Query()] = None,
    status_filter: Annotated[
        str | None,
        # another value is answered with 400, not with 422
        Query(
            description=f"one of {', '.join(STATUSES)}",
            examples=["completed"],
            json_schema_extra={"anyOf": [{"type": "string", "enum": list(STATUSES)}, {"type": "null"}]},
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ExportList:
    """A tenant's exports, newest first."""
    caller.require(Scope.EXPORTS_READ, tenant_id)
    if status_filter is not None and status_filter not in STATUSES:
        raise BadInputError(
            f"status_filter {status_filter!r} is no status.", hint=f"Use one of {', '.join(STATUSES)}."
        )
    found, total = await state_of(request).exports.newest(tenant_id, feature_set, status_filter, limit)
    return ExportList(exports=[ExportSummary.of(job) for job in found], total=total)


@router.get(
    "/exports/{export_id}", response_model=ExportJob, responses=errors.responses(401, 403, 404, 422, 429, 503)
)
async def get_export(caller: Caller, request: Request, export_id: _ExportId, tenant_id: _Tenant) -> ExportJob:
    """One export of a tenant."""
    caller.require(Scope.EXPORTS_READ, tenant_id)
    return ExportJob.of(await state_of(request).exports.find(tenant_id, export_id))


@router.post(
    "/exports/{export_id}/cancel",
    response_model=ExportJob,
    responses=errors.responses(401, 403, 404, 409, 422, 429, 503),
)
async def cancel_export(
    caller: Caller, request: Request, export_id: _ExportId, tenant_id: _Tenant
) -> ExportJob:
    """Cancel an export that has not finished; it is then failed, with the error "Cancelled on request."."""
    caller.require(Scope.EXPORTS_WRITE, tenant_id)
    return ExportJob.of(await state_of(request).exports.cancel(tenant_id, export_id))


async def _left(request: Request) -> None:
    """Until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

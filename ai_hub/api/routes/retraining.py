"""Requests to train models anew: read and decided."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.schemas.retraining import Decision, RetrainRequestOf, RetrainRequests
from ai_hub.api.services import (
    AUTHENTICATED,
    Caller,
    Limit,
    ModelQuery,
    TenantQuery,
    own_tenant,
    permit,
    services_of,
)
from ai_hub.forecasting import retraining
from ai_hub.forecasting.retraining import RetrainRequest, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_hub.access.principal import Principal

router = APIRouter(prefix="/ai/retraining", tags=["models"], dependencies=AUTHENTICATED)

_RequestId = Annotated[UUID, Path(examples=["5f0c4a0e-3b1d-4c57-9d35-0b8a6c1f2e90"])]
_AnotherId = Annotated[UUID, Path(examples=["d2b7c1e4-90a3-4f6e-8b52-7c1d0e9f3a64"])]
_DECIDED = errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)


@router.get("", response_model=RetrainRequests, responses=errors.responses(400, 401, 403, 422, 429, 503))
async def list_retraining(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    model_name: ModelQuery = None,
    status: Annotated[Status | None, Query(description="default: all")] = None,
    limit: Limit = 100,
) -> RetrainRequests:
    """Requests to train a tenant's models anew, newest first."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.MODELS_READ, tenant)
    found = await services_of(request).retraining(
        tenant, lambda rows: retraining.find_all(rows, tenant, model=model_name, status=status, limit=limit)
    )
    return RetrainRequests(tenant_id=tenant, requests=[_answer(each) for each in found])


@router.get(
    "/{request_id}",
    response_model=RetrainRequestOf,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_retraining(
    *, caller: Caller, request: Request, request_id: _RequestId, tenant_id: TenantQuery = None
) -> RetrainRequestOf:
    """A request with its evidence, and what has become of it."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.MODELS_READ, tenant, retrain_request=str(request_id))
    return _answer(
        await services_of(request).retraining(tenant, lambda rows: retraining.find(rows, tenant, request_id))
    )


@router.post("/{request_id}/approve", response_model=RetrainRequestOf, responses=_DECIDED)
async def approve_retraining(
    *,
    caller: Caller,
    request: Request,
    request_id: _RequestId,
    body: Decision,
    tenant_id: TenantQuery = None,
) -> RetrainRequestOf:
    """Approve a proposal: a worker trains the model anew and registers a version in Staging."""
    return await _decide(
        request,
        caller,
        request_id,
        own_tenant(caller, tenant_id),
        partial(retraining.approve, reason=body.reason),
    )


@router.post("/{request_id}/reject", response_model=RetrainRequestOf, responses=_DECIDED)
async def reject_retraining(
    *,
    caller: Caller,
    request: Request,
    request_id: _AnotherId,
    body: Decision,
    tenant_id: TenantQuery = None,
) -> RetrainRequestOf:
    """Reject a proposal."""
    return await _decide(
        request,
        caller,
        request_id,
        own_tenant(caller, tenant_id),
        partial(retraining.reject, reason=body.reason),
    )


async def _decide(
    request: Request, caller: Principal, request_id: UUID, tenant: str, decide: Callable[..., RetrainRequest]
) -> RetrainRequestOf:
    permit(request, caller, Scope.MODELS_REGISTER, tenant, retrain_request=str(request_id))
    found = await services_of(request).retraining(
        tenant, lambda rows: decide(rows, tenant, request_id, by=caller.name)
    )
    retraining.announce(Status(found.status), found)
    return _answer(found)


def _answer(request: RetrainRequest) -> RetrainRequestOf:
    fields = request.as_dict()
    return RetrainRequestOf(tenant_id=fields.pop("tenant"), model_name=fields.pop("model"), **fields)

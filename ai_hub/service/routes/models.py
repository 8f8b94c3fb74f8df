"""The model registry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from ai_hub.access.principal import Principal, Scope
from ai_hub.service import errors, model_ids
from ai_hub.service.dependencies import AUTHENTICATED, Caller, Limit, Offset, own_tenant, permit, state_of
from ai_hub.service.links import links
from ai_hub.service.model_ids import PRODUCTION, ModelId, stage_of
from ai_hub.service.schemas.common import ModelName, TenantId
from ai_hub.service.schemas.models import (
    DeleteResponse,
    ModelList,
    ModelResponse,
    PromoteRequest,
    PromoteResponse,
    RegisterRequest,
    RegisterResponse,
    Stage,
)
from ai_hub.service.uploads import UploadRoute

router = APIRouter(prefix="/ai/models", tags=["models"], dependencies=AUTHENTICATED)
_uploads = APIRouter(route_class=UploadRoute)

_Tenant = Annotated[
    TenantId | None, Query(description="default: the tenant of the key", examples=["city-works"])
]
_Model = Annotated[ModelName | None, Query(description="default: every model")]
_Stage = Annotated[Stage | None, Query(description="default: every stage")]
_Id = Annotated[str, Path(description="tenant:model:version", examples=["city-works:demand-forecast:v1.2.0"])]


@_uploads.post(
    "/register",
    status_code=201,
    response_model=RegisterResponse,
    responses=errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
    | {201: links("get_model", "promote_model", "delete_model", model_id="model_id")},
)
async def register_model(
    caller: Caller, request: Request, response: Response, body: RegisterRequest
) -> RegisterResponse:
    """Register a version of a model, from a run, a logged model or files in the request."""
    model = ":".join(filter(None, (body.tenant_id, body.model_name, body.version)))
    permit(request, caller, Scope.MODELS_REGISTER, body.tenant_id, model=model, stage=body.stage)
    target = stage_of(body.stage)
    if target == PRODUCTION:
        caller.require(Scope.MODELS_PROMOTE, body.tenant_id)
    registered = await state_of(request).models.ask(caller, lambda desk: desk.register(body, target))
    request.scope["state"]["named"]["model"] = registered.model_id
    response.headers["Location"] = f"{router.prefix}/{registered.model_id}"
    return registered


router.include_router(_uploads)


@router.api_route("/register", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def register_by_another_method() -> None:
    """Not the version of this id, which is none."""
    raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})


@router.get("", include_in_schema=False)
@router.get("/", response_model=ModelList, responses=errors.responses(400, 401, 403, 404, 422, 429, 503))
async def list_models(
    *,
    caller: Caller,
    request: Request,
    tenant_id: _Tenant = None,
    model_name: _Model = None,
    stage: _Stage = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> ModelList:
    """A tenant's versions, newest first."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.MODELS_READ, tenant)
    wanted = None if stage is None else stage_of(stage)
    return await state_of(request).models.ask(
        caller, lambda desk: desk.search(tenant, model_name, wanted, limit, offset)
    )


@router.get(
    "/{model_id}",
    response_model=ModelResponse,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_model(caller: Caller, request: Request, model_id: _Id) -> ModelResponse:
    """One version: what it is, how good it was, and its stage."""
    wanted = _require(request, caller, Scope.MODELS_READ, model_id)
    return await state_of(request).models.ask(caller, lambda desk: desk.find(wanted))


@router.put(
    "/{model_id}/promote",
    response_model=PromoteResponse,
    responses=errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503),
)
async def promote_model(
    caller: Caller, request: Request, model_id: _Id, body: PromoteRequest
) -> PromoteResponse:
    """Move a version to another stage, by the rules and the promotion gates.

    Into and out of production takes the scope `models:promote`; `models:register` is enough to archive a
    version in staging and to restore an archived one.
    """
    target = stage_of(body.target_stage)
    enough = Scope.MODELS_REGISTER
    if target == PRODUCTION or enough not in caller.scopes:
        enough = Scope.MODELS_PROMOTE
    wanted = _require(request, caller, enough, model_id, stage=body.target_stage)

    def require_promoter() -> None:
        caller.require(Scope.MODELS_PROMOTE, wanted.tenant)

    return await state_of(request).models.ask(
        caller, lambda desk: desk.move(wanted, target, body.reason, require_promoter)
    )


@router.delete(
    "/{model_id}",
    response_model=DeleteResponse,
    responses=errors.responses(400, 401, 403, 404, 409, 422, 429, 503),
)
async def delete_model(
    caller: Caller,
    request: Request,
    model_id: _Id,
    force: Annotated[bool, Query(description="also one that is not archived")] = False,
) -> DeleteResponse:
    """Delete an archived version with its files; with `force`, one in any stage."""
    wanted = _require(request, caller, Scope.MODELS_DELETE, model_id, force=force)
    return await state_of(request).models.ask(caller, lambda desk: desk.delete(wanted, force=force))


def _require(request: Request, caller: Principal, scope: Scope, model_id: str, **named: object) -> ModelId:
    wanted = model_ids.parse(model_id)
    permit(request, caller, scope, wanted.tenant, model=model_id, **named)
    return wanted

"""The model registry."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from ai_hub.access.principal import Principal, Scope
from ai_hub.api import errors, model_ids
from ai_hub.api.errors import MalformedError, OverloadedError
from ai_hub.api.model_ids import ModelId, stage_of
from ai_hub.api.schemas.models import (
    ComparisonList,
    DeleteResponse,
    ModelList,
    ModelResponse,
    PromoteRequest,
    PromoteResponse,
    RegisterRequest,
    RegisterResponse,
    Stage,
)
from ai_hub.api.services import (
    AUTHENTICATED,
    Caller,
    Limit,
    ModelQuery,
    Offset,
    TenantQuery,
    openapi_links,
    own_tenant,
    permit,
    services_of,
)
from mlflow_plugins.lifecycle import rules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from starlette.types import Message, Receive

#: Values of a JSON document, counted by their separators, which Base64 has none of.
MAX_VALUES: Final = 200_000
_SEPARATORS: Final = (b",", b"[", b"{")
#: Bodies of the largest size in memory at once; parsing copies each several times.
MAX_CONCURRENT: Final = 4
_CLIENT_LEFT: Final = 499


class _UploadMemory:
    """Counts the bytes of uploads that are in memory."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def counted(self, receive: Receive, most_bytes: int) -> Iterator[Receive]:
        """A way to receive one more upload.

        Raises:
            OverloadedError: by what comes that way, there are more than `most_bytes`.
        """
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held += size
            if self._held > most_bytes:
                raise OverloadedError(
                    "Many models are being uploaded.",
                    hint="Try again in a minute, or give the model as a run.",
                )
            return message

        try:
            yield count
        finally:
            self._held -= received


class _UploadRequest(Request):
    async def json(self) -> Any:
        """Parse it beside the event loop."""
        return await asyncio.to_thread(json.loads, await self.body())


class _UploadRoute(APIRoute):
    """A route that takes large bodies: from callers that may, not too many at once, and easy to read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, behind these checks."""
        handle = super().get_route_handler()
        memory = _UploadMemory()

        async def handle_upload(request: Request) -> Response:
            # before a byte of it is read
            cast("Principal", request.scope["state"]["principal"]).require_scope(Scope.MODELS_REGISTER)
            most = request.app.state.services.options.max_upload_bytes * MAX_CONCURRENT
            with memory.counted(request.receive, most) as receive:
                upload = _UploadRequest(request.scope, receive)
                try:
                    body = await upload.body()
                except ClientDisconnect:
                    return Response(status_code=_CLIENT_LEFT)
                if sum(map(body.count, _SEPARATORS)) > MAX_VALUES:
                    raise MalformedError(
                        f"The document has more than {MAX_VALUES:,} values.",
                        hint="Put large objects into a file of the model.",
                    )
                return await handle(upload)

        return handle_upload


router = APIRouter(prefix="/ai/models", tags=["models"], dependencies=AUTHENTICATED)
_uploads = APIRouter(route_class=_UploadRoute)

_Stage = Annotated[Stage | None, Query(description="default: every stage")]
_Id = Annotated[str, Path(description="tenant:model:version", examples=["city-works:demand-forecast:v1.2.0"])]


@_uploads.post(
    "/register",
    status_code=201,
    response_model=RegisterResponse,
    responses=errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
    | {201: openapi_links("get_model", "promote_model", "delete_model", model_id="model_id")},
)
async def register_model(
    caller: Caller, request: Request, response: Response, body: RegisterRequest
) -> RegisterResponse:
    """Register a version of a model, from a run, a logged model or files in the request."""
    model = ":".join(filter(None, (body.tenant_id, body.model_name, body.version)))
    permit(request, caller, Scope.MODELS_REGISTER, body.tenant_id, model=model, stage=body.stage)
    target = stage_of(body.stage)
    if target == rules.PRODUCTION:
        caller.require(Scope.MODELS_PROMOTE, body.tenant_id)
    registered = await services_of(request).models.run_as(
        caller, lambda registry: registry.register(body, target)
    )
    request.scope["state"]["log_fields"]["model"] = registered.model_id
    response.headers["Location"] = f"{router.prefix}/{registered.model_id}"
    return registered


router.include_router(_uploads)


@router.api_route("/register", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def register_by_another_method() -> None:
    """Answer 405: `register` is not an id of a model."""
    raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})


@router.get("", include_in_schema=False)
@router.get("/", response_model=ModelList, responses=errors.responses(400, 401, 403, 404, 422, 429, 503))
async def list_models(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    model_name: ModelQuery = None,
    stage: _Stage = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> ModelList:
    """A tenant's versions, newest first."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.MODELS_READ, tenant)
    only = None if stage is None else stage_of(stage)
    return await services_of(request).models.run_as(
        caller, lambda registry: registry.search(tenant, model_name, only, limit, offset)
    )


@router.get(
    "/{model_id}",
    response_model=ModelResponse,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_model(caller: Caller, request: Request, model_id: _Id) -> ModelResponse:
    """One version: what it is, how good it was, and its stage."""
    version = _require(request, caller, Scope.MODELS_READ, model_id)
    return await services_of(request).models.run_as(caller, lambda registry: registry.find(version))


@router.get(
    "/{model_id}/comparisons",
    response_model=ComparisonList,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def list_comparisons(caller: Caller, request: Request, model_id: _Id) -> ComparisonList:
    """How much less a version errs than those that were in production, as `ai-hub compare` has found it."""
    version = _require(request, caller, Scope.MODELS_READ, model_id)
    return await services_of(request).models.run_as(caller, lambda registry: registry.comparisons(version))


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
    if target == rules.PRODUCTION or enough not in caller.scopes:
        enough = Scope.MODELS_PROMOTE
    version = _require(request, caller, enough, model_id, stage=body.target_stage)

    def require_promoter() -> None:
        caller.require(Scope.MODELS_PROMOTE, version.tenant)

    return await services_of(request).models.run_as(
        caller, lambda registry: registry.move(version, target, body.reason, require_promoter)
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
    version = _require(request, caller, Scope.MODELS_DELETE, model_id, force=force)
    return await services_of(request).models.run_as(
        caller, lambda registry: registry.delete(version, force=force)
    )


def _require(
    request: Request, caller: Principal, scope: Scope, model_id: str, **log_fields: object
) -> ModelId:
    parsed = model_ids.parse(model_id)
    permit(request, caller, scope, parsed.tenant, model=model_id, **log_fields)
    return parsed

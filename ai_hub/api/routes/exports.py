"""Exports of features to Parquet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse

from ai_hub.access.principal import Principal, Scope
from ai_hub.api import errors
from ai_hub.api.schemas.common import FeatureSetName
from ai_hub.api.schemas.exports import (
    ExportDeleted,
    ExportFile,
    ExportFiles,
    ExportJob,
    ExportList,
    ExportRequest,
    ExportSummary,
    IdempotencyKey,
)
from ai_hub.api.services import (
    AUTHENTICATED,
    Caller,
    Limit,
    Offset,
    TenantQuery,
    openapi_links,
    own_tenant,
    permit,
    services_of,
)
from ai_hub.errors import BadInputError
from ai_hub.exports.export import Request as Wanted
from ai_hub.exports.export import TooManyExportsError
from ai_hub.jobs.queue import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.exports.files import OpenedFile

router = APIRouter(prefix="/ai/features", tags=["exports"], dependencies=AUTHENTICATED)

_PARQUET: Final = "application/vnd.apache.parquet"
_CHUNK: Final = 1 << 20
_PARTIAL, _NOT_MODIFIED = 206, 304
_BINARY = {"type": "string", "format": "binary"}
_DoneId = Annotated[UUID, Path(examples=["7d1c9a54-2f60-4c1b-9d35-0b8a6c1f2e90"])]
_ExportId = Annotated[UUID, Path(examples=["0f2c6a52-9b1e-4a0e-8a50-3f4f0a6f7d55"])]


@router.post(
    "/export",
    status_code=202,
    response_model=ExportJob,
    responses=errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
    | {
        202: openapi_links(
            "get_export", "cancel_export", "delete_export", export_id="export_id", tenant_id="tenant_id"
        )
    },
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
    permit(request, caller, Scope.EXPORTS_WRITE, body.tenant_id, feature_set=body.feature_set)
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
    service = services_of(request).exports
    try:
        job = await service.submit(wanted, body.idempotency_key or idempotency_key, caller.name)
    except TooManyExportsError as error:
        raise errors.TooManyRequestsError(error.message, hint=error.hint) from error
    request.scope["state"]["log_fields"]["export_id"] = str(job.export_id)
    return ExportJob.of(await service.wait(job, wait_s, partial(_left, request)))


@router.get("/exports", response_model=ExportList, responses=errors.responses(400, 401, 403, 422, 429, 503))
async def list_exports(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
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
    limit: Limit = 100,
    offset: Offset = 0,
) -> ExportList:
    """A tenant's exports, newest first."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.EXPORTS_READ, tenant)
    if status_filter is not None and status_filter not in STATUSES:
        raise BadInputError(
            f"status_filter {status_filter!r} is no status.", hint=f"Use one of {', '.join(STATUSES)}."
        )
    found, total = await services_of(request).exports.newest(
        tenant, feature_set, status_filter, limit, offset
    )
    return ExportList(exports=[ExportSummary.of(job) for job in found], total=total)


@router.get(
    "/exports/{export_id}",
    response_model=ExportJob,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_export(
    caller: Caller, request: Request, export_id: _ExportId, tenant_id: TenantQuery = None
) -> ExportJob:
    """One export of a tenant."""
    tenant = _permit(request, caller, Scope.EXPORTS_READ, tenant_id, export_id)
    return ExportJob.of(await services_of(request).exports.find(tenant, export_id))


@router.get(
    "/exports/{export_id}/files",
    response_model=ExportFiles,
    responses=errors.responses(400, 401, 403, 404, 409, 422, 429, 503),
)
async def list_export_files(
    *,
    caller: Caller,
    request: Request,
    export_id: _DoneId,
    tenant_id: TenantQuery = None,
    limit: Limit = 1000,
    offset: Offset = 0,
) -> ExportFiles:
    """Files of a completed export: one, or one a month."""
    tenant = _permit(request, caller, Scope.EXPORTS_READ, tenant_id, export_id)
    job, found = await services_of(request).exports.files(tenant, export_id)
    return ExportFiles(
        export_id=job.export_id,
        tenant_id=job.tenant_id,
        files=[
            ExportFile(path=each.path, size_bytes=each.size, sha256=each.sha256)
            for each in found[offset : offset + limit]
        ],
        total=len(found),
    )


@router.get(
    "/exports/{export_id}/download",
    response_class=Response,
    responses=errors.responses(400, 401, 403, 404, 409, 416, 422, 429, 503)
    | {
        200: {"description": "The file", "content": {_PARQUET: {"schema": _BINARY}}},
        206: {"description": "The part that Range names", "content": {_PARQUET: {"schema": _BINARY}}},
        304: {"description": "It is the file of If-None-Match"},
        307: {"description": "Where the file is, with EXPORT_DOWNLOAD_REDIRECT"},
    },
)
async def download_export(
    *,
    caller: Caller,
    request: Request,
    export_id: _DoneId,
    tenant_id: TenantQuery = None,
    path: Annotated[str, Query(max_length=512, description="of a partitioned export: one of its files")] = "",
    byte_range: Annotated[
        str | None, Header(alias="Range", description="bytes=…: a part of the file")
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A file of a completed export; its ETag is the SHA-256 of the export."""
    tenant = _permit(request, caller, Scope.EXPORTS_READ, tenant_id, export_id)
    found = await services_of(request).exports.open_file(tenant, export_id, path, byte_range)
    return _file_response(found, if_none_match)


@router.delete(
    "/exports/{export_id}",
    response_model=ExportDeleted,
    responses=errors.responses(400, 401, 403, 404, 409, 422, 429, 503),
)
async def delete_export(
    caller: Caller, request: Request, export_id: _DoneId, tenant_id: TenantQuery = None
) -> ExportDeleted:
    """Delete an export that has ended, with its files."""
    tenant = _permit(request, caller, Scope.EXPORTS_WRITE, tenant_id, export_id)
    job, removed = await services_of(request).exports.delete(tenant, export_id)
    return ExportDeleted(
        export_id=job.export_id,
        tenant_id=job.tenant_id,
        files_deleted=removed,
        message=f"Export {job.export_id} is gone with {len(removed)} files.",
    )


@router.post(
    "/exports/{export_id}/cancel",
    response_model=ExportJob,
    responses=errors.responses(400, 401, 403, 404, 409, 422, 429, 503),
)
async def cancel_export(
    caller: Caller, request: Request, export_id: _ExportId, tenant_id: TenantQuery = None
) -> ExportJob:
    """Cancel an export that has not finished; it is then failed, with the error "Cancelled on request."."""
    tenant = _permit(request, caller, Scope.EXPORTS_WRITE, tenant_id, export_id)
    return ExportJob.of(await services_of(request).exports.cancel(tenant, export_id))


def _permit(request: Request, caller: Principal, scope: Scope, tenant_id: str | None, export_id: UUID) -> str:
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, scope, tenant, export_id=str(export_id))
    return tenant


async def _left(request: Request) -> None:
    """Until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _file_response(found: OpenedFile, if_none_match: str | None) -> Response:
    """The file, or that the caller has it."""
    headers = {
        "ETag": found.etag,
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(found.name)}",
        # whoever has a key may keep it, but no proxy
        "Cache-Control": "private",
    }
    known = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    if found.etag in known or "*" in known:
        _close(found.answer)
        return Response(status_code=_NOT_MODIFIED, headers=headers)
    if found.local is not None:
        # which answers Range by itself
        return FileResponse(found.local, headers=headers, media_type=_PARQUET)
    if found.url is not None:
        return RedirectResponse(found.url, headers={"Cache-Control": "no-store"})
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(found.answer["ContentLength"])}
    part = found.answer.get("ContentRange")
    if part is not None:
        headers["Content-Range"] = part
    status = 200 if part is None else _PARTIAL
    return StreamingResponse(_chunks(found.answer), status, headers, _PARQUET)


def _chunks(answer: Any) -> Iterator[bytes]:
    try:
        yield from answer["Body"].iter_chunks(_CHUNK)
    finally:
        _close(answer)


def _close(answer: Any) -> None:
    if answer is not None:
        answer["Body"].close()

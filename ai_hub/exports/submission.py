"""New export jobs, their cancellation, and trying failed ones again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ai_hub.database.transactions import transaction
from ai_hub.errors import ConflictError, NotFoundError
from ai_hub.exports.errors import PathTakenError, TooManyExportsError
from ai_hub.exports.export import KIND, Export, find_export
from ai_hub.exports.locations import check_location, is_gone
from ai_hub.features.store import find_service
from ai_hub.jobs import queue

if TYPE_CHECKING:
    import psycopg

    from ai_hub.exports.request import Request
    from ai_hub.settings import Settings

# submissions of one tenant go one after another, so that none misses what another is about to insert
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('feature_exports ' || %s, 0))"
_KEYLESS = """
SELECT export_id FROM feature_exports
WHERE tenant_id = %s AND status IN ('pending', 'running')
    AND request_hash = %s AND idempotency_key IS NULL AND NOT cancel_requested
ORDER BY created_at LIMIT 1
"""
# written before they were registered, readings have a span only
_UNKNOWN_ASSETS = """
SELECT asset_id FROM unnest(%(assets)s::text[]) AS asked (asset_id)
WHERE NOT EXISTS (
        SELECT FROM assets WHERE assets.tenant_id = %(tenant)s AND assets.asset_id = asked.asset_id
    )
    AND NOT EXISTS (
        SELECT FROM asset_spans AS spans
        WHERE spans.tenant_id = %(tenant)s AND spans.asset_id = asked.asset_id
    )
ORDER BY asset_id LIMIT 5
"""
# a file cannot be in the folder of another export either
_AT_PATH = """
FROM feature_exports
WHERE tenant_id = %(tenant)s AND status <> 'failed' AND expired_at IS NULL AND (
    output_path = %(path)s
    OR starts_with(output_path, %(path)s || '/') OR starts_with(%(path)s, output_path || '/')
)
"""
_TAKEN = f"""
SELECT export_id {_AT_PATH} AND (status <> 'completed' OR storage_path <> ALL(%(gone)s)) LIMIT 1
"""  # constants
_PLACES = f"SELECT DISTINCT storage_path {_AT_PATH} AND status = 'completed' LIMIT 20"
_COUNT = "SELECT count(*) FROM feature_exports WHERE tenant_id = %s AND status IN ('pending', 'running')"


def submit(
    settings: Settings,
    request: Request,
    *,
    key: str | None = None,
    requested_by: str | None = None,
    export_id: UUID | None = None,
) -> Export:
    """The job for a request: a new one, or the one that it is already.

    With the same `key` the same request is the same job for ever. Without one, a request that equals that of
    an unfinished job without a key is this job. A new one gets `export_id`.

    Raises:
        BadInputError: window or path cannot be used.
        NotFoundError: there is no such feature service, or the tenant lacks one of the assets.
        ConflictError: the key belongs to another request, or the path to another job.
        TooManyExportsError: the tenant has too many unfinished ones.
        ServiceDownError: a server does not answer.
    """
    request.check()
    check_location(settings, request)
    if key is not None:
        # a repetition is answered whatever has become of the feature set
        with transaction(settings, request.tenant) as connection:
            if known := _known(connection, request, key):
                return find_export(connection, request.tenant, known)
    if find_service(request.feature_set, settings) is None:
        raise NotFoundError(
            f"There is no feature set {request.feature_set!r}.",
            hint="GET /ai/features/sets lists those there are.",
        )
    gone = _gone(settings, request)
    with transaction(settings, request.tenant) as connection:
        connection.execute(_ONE_AT_A_TIME, [request.tenant])
        if known := _known(connection, request, key):
            return find_export(connection, request.tenant, known)
        _check_assets(connection, request)
        export_id = export_id or uuid4()
        placed = replace(request, output_path=request.path(export_id))
        _check_path(connection, placed, gone)
        _check_count(connection, request.tenant, settings.export_jobs_per_tenant)
        job = queue.NewJob(
            export_id,
            KIND,
            request.tenant,
            arguments=_arguments(placed, request.hash),
            queueing_lock=placed.output_path,
            idempotency_key=key,
            created_by=requested_by,
        )
        queue.defer(connection, job)
        return find_export(connection, request.tenant, export_id)


def cancel(settings: Settings, tenant: str, export_id: UUID) -> Export:
    """Cancel a job: one that waits at once, a running one as soon as its worker sees it, within seconds.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: it has ended otherwise.
        ServiceDownError: the database does not answer.
    """
    with transaction(settings, tenant) as connection:
        find_export(connection, tenant, export_id)
        queue.cancel(connection, tenant, export_id)
        return find_export(connection, tenant, export_id)


def retry(settings: Settings, tenant: str, export_id: UUID) -> Export:
    """Put a failed or cancelled job into the queue again, where a new one with its request would be taken.

    Raises:
        NotFoundError: the tenant has no such job.
        ConflictError: it has not failed, or its path belongs to another job by now.
        TooManyExportsError: the tenant has too many unfinished ones.
        ServiceDownError: a server does not answer.
    """
    with transaction(settings, tenant) as connection:
        request = find_export(connection, tenant, export_id).request
    gone = _gone(settings, request)
    with transaction(settings, tenant) as connection:
        connection.execute(_ONE_AT_A_TIME, [tenant])
        if find_export(connection, tenant, export_id).status == "failed":
            _check_path(connection, request, gone)
            _check_count(connection, tenant, settings.export_jobs_per_tenant)
        queue.retry(connection, tenant, export_id)
        return find_export(connection, tenant, export_id)


def _arguments(placed: Request, request_hash: str) -> dict[str, Any]:
    """The request as `feature_exports` reads it; `request_hash` is that of the request as it came."""
    arguments = {
        "feature_set": placed.feature_set,
        "start_time": placed.start.isoformat(),
        "end_time": placed.end.isoformat(),
        "asset_ids": None if placed.assets is None else list(placed.assets),
        "output_path": placed.output_path,
        "partition_by": placed.partition_by,
        "request_hash": request_hash,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _known(connection: psycopg.Connection[Any], request: Request, key: str | None) -> UUID | None:
    if key is None:
        row = connection.execute(_KEYLESS, [request.tenant, request.hash]).fetchone()
        return row[0] if row else None
    row = connection.execute(
        "SELECT export_id, request_hash FROM feature_exports WHERE tenant_id = %s AND idempotency_key = %s",
        [request.tenant, key],
    ).fetchone()
    if row and row[1] != request.hash:
        raise ConflictError(
            f"The idempotency key {key!r} belongs to another request (export {row[0]}).",
            hint="Repeat that request unchanged, or use another key.",
        )
    return row[0] if row else None


def _check_assets(connection: psycopg.Connection[Any], request: Request) -> None:
    if request.assets is None:
        return
    unknown = connection.execute(
        _UNKNOWN_ASSETS, {"assets": list(request.assets), "tenant": request.tenant}
    ).fetchall()
    if unknown:
        names = ", ".join(asset for (asset,) in unknown)
        raise NotFoundError(
            f"Tenant {request.tenant} has no asset {names}.", hint="`ai-hub asset list` shows those it has."
        )


def _gone(settings: Settings, request: Request) -> list[str]:
    """Places of completed exports in the way of this one, whose files have been deleted since."""
    if request.output_path is None:
        return []
    with transaction(settings, request.tenant) as connection:
        values = {"tenant": request.tenant, "path": request.output_path}
        places = connection.execute(_PLACES.encode(), values).fetchall()
    # looked for outside of the transaction: a store may take its time
    return [place for (place,) in places if place is not None and is_gone(settings, place)]


def _check_path(connection: psycopg.Connection[Any], request: Request, gone: list[str]) -> None:
    values = {"tenant": request.tenant, "path": request.output_path, "gone": gone}
    row = connection.execute(_TAKEN.encode(), values).fetchone()
    if row:
        raise PathTakenError(str(request.output_path), f"export {row[0]}")


def _check_count(connection: psycopg.Connection[Any], tenant: str, limit: int) -> None:
    row = connection.execute(_COUNT, [tenant]).fetchone()
    if row and row[0] >= limit:
        raise TooManyExportsError(tenant, limit)

"""Exports as the view `feature_exports` of the table `jobs` has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from psycopg.rows import class_row

from ai_hub.errors import NotFoundError
from ai_hub.exports.request import Request
from ai_hub.jobs.queue import UNFINISHED, describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg


#: Kind of these jobs.
KIND: Final = "export"

COLUMNS: Final = (
    "export_id, tenant_id, feature_set, start_time, end_time, asset_ids,"
    " asset_count, status, row_count, file_size_bytes,"
    " sha256, storage_path, error, created_at, started_at, completed_at, output_path, partition_by,"
    " idempotency_key, request_hash, progress, cancel_requested, attempts, fence, worker, service_version,"
    " expired_at, file_sha256"
)


@dataclass(frozen=True)
class Export:
    """One row; see the migrations for the columns."""

    export_id: UUID
    tenant_id: str
    feature_set: str
    start_time: datetime
    end_time: datetime
    asset_ids: list[str] | None
    #: None: all
    asset_count: int | None
    status: str
    row_count: int | None
    file_size_bytes: int | None
    sha256: str | None
    storage_path: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    output_path: str
    partition_by: Literal["month"] | None
    idempotency_key: str | None
    request_hash: str
    progress: float
    cancel_requested: bool
    attempts: int
    #: fencing token, incremented on every acquisition
    fence: int
    worker: str | None
    service_version: str | None
    #: when its files were removed, some days after it was completed
    expired_at: datetime | None = None
    #: of a partitioned export, SHA-256 by path; None of one from before they were kept
    file_sha256: dict[str, str] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the export has ended."""
        return self.status not in UNFINISHED

    @property
    def request(self) -> Request:
        """The request; `output_path` is the assigned path."""
        assets = None if self.asset_ids is None else tuple(self.asset_ids)
        return Request(
            self.tenant_id,
            self.feature_set,
            self.start_time,
            self.end_time,
            assets,
            self.output_path,
            self.partition_by,
        )

    @property
    def message(self) -> str:
        """Where it is, for a reader."""
        if self.expired_at is not None:
            return f"Expired: its files were removed on {self.expired_at:%Y-%m-%d}."
        if self.status == "completed":
            return f"Completed: {self.row_count:,} rows."
        return describe(self.status, self.error, self.progress, cancel_requested=self.cancel_requested)


def find_export(connection: psycopg.Connection[Any], tenant: str, export_id: UUID) -> Export:
    """A job of the tenant.

    Raises:
        NotFoundError: it has none with this id.
    """
    query = f"SELECT {COLUMNS} FROM feature_exports WHERE tenant_id = %s AND export_id = %s"  # noqa: S608
    with connection.cursor(row_factory=class_row(Export)) as cursor:
        export = cursor.execute(query, [tenant, export_id]).fetchone()
    if export is None:
        raise NotFoundError(
            f"Tenant {tenant} has no export {export_id}.", hint="GET /ai/features/exports lists those it has."
        )
    return export


def find_exports(connection: psycopg.Connection[Any], export_ids: Sequence[UUID]) -> list[Export]:
    """Jobs with these ids, of all tenants that the connection sees."""
    query = f"SELECT {COLUMNS} FROM feature_exports WHERE export_id = ANY(%s)"  # noqa: S608
    with connection.cursor(row_factory=class_row(Export)) as cursor:
        return cursor.execute(query, [list(export_ids)]).fetchall()


def newest_exports(
    connection: psycopg.Connection[Any],
    tenant: str,
    *,
    feature_set: str | None = None,
    status: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[list[Export], int]:
    """The tenant's exports, newest first, and how many there are without `limit`.

    They come without `asset_ids` and `file_sha256`, which can be long.
    """
    # only the given filters, so that the tenant alone is counted in its index
    filters = {"feature_set": feature_set, "status": status}
    where = " AND ".join(
        ["tenant_id = %(tenant)s", *(f"{name} = %({name})s" for name, value in filters.items() if value)]
    )
    parameters = {
        "tenant": tenant,
        "feature_set": feature_set,
        "status": status,
        "limit": limit,
        "offset": offset,
    }
    columns = COLUMNS.replace(" asset_ids,", " NULL::text[] AS asset_ids,")
    columns = columns.replace(" file_sha256", " NULL::jsonb AS file_sha256")
    query = (
        f"SELECT {columns} FROM feature_exports WHERE {where}"  # noqa: S608
        " ORDER BY created_at DESC, export_id LIMIT %(limit)s OFFSET %(offset)s"
    )
    count = f"SELECT count(*) FROM feature_exports WHERE {where}"  # noqa: S608
    with connection.cursor(row_factory=class_row(Export)) as cursor:
        exports = cursor.execute(query, parameters).fetchall()
    row = connection.execute(count, parameters).fetchone()
    return exports, row[0] if row else 0

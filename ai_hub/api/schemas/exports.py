"""`POST /ai/features/export`, `GET /ai/features/exports`, one export, and its cancellation."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ai_hub.api.schemas.common import AssetId, FeatureSetName, TenantId, Timestamp

if TYPE_CHECKING:
    from ai_hub.exports.export import Export

_MOST_ASSETS = 10_000
_MEGABYTE = 1_000_000
IdempotencyKey = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=128)
]


class ExportStatus(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class ExportRequest(BaseModel):
    """Which rows, and where to."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "tenant_id": "city-works",
                    "feature_set": "forecast_advanced",
                    "start_time": "2026-10-01T00:00:00Z",
                    "end_time": "2026-11-01T00:00:00Z",
                }
            ]
        },
    )

    tenant_id: TenantId
    feature_set: FeatureSetName
    start_time: Timestamp = Field(description="first hour; included")
    end_time: Timestamp = Field(description="end; not included")
    asset_ids: Annotated[list[AssetId], Field(min_length=1, max_length=_MOST_ASSETS)] | None = Field(
        None, description="default: every asset of the tenant"
    )
    output_path: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="name below the tenant's folder of EXPORT_STORAGE_PATH; default: one in unnamed/"
    )
    partition_by: Literal["month"] | None = Field(None, description="a folder with one file a month")
    idempotency_key: IdempotencyKey | None = Field(
        None, description="the same key with the same request is the same job; also as Idempotency-Key"
    )


class ExportSummary(BaseModel):
    """A durable export job without its list of assets, which can be long."""

    export_id: UUID
    tenant_id: str
    feature_set: str
    start_time: datetime
    end_time: datetime
    asset_count: int | None = Field(None, description="how many were asked for; null: every asset")
    status: ExportStatus
    progress: float = Field(ge=0, le=1, description="share of the work that is done")
    storage_path: str | None = Field(description="where the file is, once it is complete")
    row_count: int | None
    unstored_rows: int | None = Field(
        None,
        description="rows of the feature view with the most of them that were computed as they were read, "
        "as no backfill has stored them; those of the last day only wait for a refresh and do not count",
    )
    file_size_bytes: int | None
    file_size_mb: float | None
    sha256: str | None
    error: str | None = None
    message: str
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    expired_at: datetime | None = Field(None, description="when the files of a completed export were removed")

    @classmethod
    def of(cls, job: Export) -> Self:
        """The job as the service answers it."""
        size = job.file_size_bytes
        megabytes = None if size is None else round(size / _MEGABYTE, 3)
        facts = {name: getattr(job, name) for name in cls.model_fields if name != "file_size_mb"}
        return cls.model_validate(facts | {"file_size_mb": megabytes})


class ExportJob(ExportSummary):
    """A durable export job."""

    asset_ids: list[str] | None = Field(None, description="those that were asked for; null: every asset")


class ExportList(BaseModel):
    """A tenant's export jobs, newest first."""

    exports: list[ExportSummary]
    total: int


class ExportFile(BaseModel):
    """A file of an export."""

    path: str = Field(description="for `?path=` of the download; empty: the export is one file")
    size_bytes: int
    sha256: str | None = Field(description="null: that of all files together is known alone")


class ExportFiles(BaseModel):
    """Files of a completed export, by path."""

    export_id: UUID
    tenant_id: str
    files: list[ExportFile]
    total: int


class ExportDeleted(BaseModel):
    """An export that is no more."""

    export_id: UUID
    tenant_id: str
    status: Literal["deleted"] = "deleted"
    files_deleted: list[str]
    message: str

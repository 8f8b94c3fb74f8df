"""What is below `GET /ai/lineage`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """Read from the dataclasses of `ai_hub.forecasting.lineage`."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())


class ImportOf(_Part):
    """A file that was ingested."""

    import_id: UUID
    file_name: str
    sha256: str
    table_name: str
    started_at: datetime
    finished_at: datetime | None = Field(description="none: under way, or ended by an error")
    row_count: int | None = Field(description="rows that were new or changed; none as above")


class TrainingSetOf(_Part):
    """Rows that a version was fitted to and tested on."""

    tables: list[str] = Field(examples=[["forecast_basic_features"]])
    feature_service: str
    start: datetime
    end: datetime
    readings_from: datetime = Field(description="time of the first readings that the rows are made of")
    known_at: datetime = Field(description="what was recorded later is not in them")
    assets: list[str]
    rows: int = Field(description="those that it was fitted to")


class VersionOf(BaseModel):
    """A registered version."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    version: int = Field(description="MLflow's number")
    semantic_version: str | None
    stage: str
    run_id: str | None
    manifest_sha256: str | None
    registered_at: datetime
    training_set: TrainingSetOf | None


class ForecastsOf(_Part):
    """Runs of the forecast log of one version and role."""

    model: str
    version: int | None
    role: str
    runs: int
    first_issued_at: datetime
    last_issued_at: datetime


class ScoreOf(_Part):
    """What the forecasts of one version and role were worth."""

    model: str
    version: int | None
    role: str
    hours: int
    mae: float


class LineageOf(BaseModel):
    """Where something comes from, and what was made of it."""

    tenant_id: str
    imports: list[ImportOf] = Field(description="newest first")
    readings_without_file: int | None = Field(
        description="readings in it that no import has written; none: it is not about readings"
    )
    versions: list[VersionOf]
    forecasts: list[ForecastsOf]
    scores: list[ScoreOf]
    gaps: list[str] = Field(description="where the chain is broken")

    @classmethod
    def of(cls, tenant: str, found: Any) -> LineageOf:
        """The answer for a `Lineage`."""
        return cls(
            tenant_id=tenant,
            imports=[ImportOf.model_validate(each) for each in found.imports],
            readings_without_file=found.readings_without_file,
            versions=[
                VersionOf(
                    model_name=each.version.model,
                    version=each.version.version,
                    semantic_version=each.version.semantic_version,
                    stage=each.version.stage,
                    run_id=each.version.run_id,
                    manifest_sha256=each.version.manifest_sha256,
                    registered_at=each.version.registered_at,
                    training_set=each.training_set and TrainingSetOf.model_validate(each.training_set),
                )
                for each in found.versions
            ],
            forecasts=[ForecastsOf.model_validate(each) for each in found.forecasts],
            scores=[ScoreOf.model_validate(each) for each in found.scores],
            gaps=found.gaps,
        )

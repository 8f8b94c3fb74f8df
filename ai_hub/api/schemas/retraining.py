"""Requests to train models anew."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ai_hub.forecasting.retraining import Cause, Status


class Decision(BaseModel):
    """Why a request is approved or rejected."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "heat pumps since November"}]}
    )

    # PostgreSQL keeps no NUL in a text
    reason: str = Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")


class RetrainRequestOf(BaseModel):
    """A request to train a model in production anew."""

    model_config = ConfigDict(protected_namespaces=())

    request_id: UUID = Field(description="also the id of its job, once it is approved")
    tenant_id: str
    model_name: str
    version: int = Field(description="in production when it was proposed")
    semantic_version: str | None
    causes: list[Cause]
    evidence: dict[str, Any] = Field(description="by cause: ids of findings, numbers, age, meters")
    status: Status = Field(description="approved: its job waits or runs")
    proposed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None
    ended_at: datetime | None
    new_version: int | None = Field(description="what was registered, in Staging")
    new_semantic_version: str | None
    error: str | None


class RetrainRequests(BaseModel):
    """A tenant's requests, newest first."""

    tenant_id: str
    requests: list[RetrainRequestOf]

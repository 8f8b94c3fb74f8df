"""`/ai/models`: registration, look-up, promotion, deletion."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ai_hub.service.schemas.common import (
    ModelName,
    SemanticVersion,
    TenantId,
)

Text = Annotated[str, Field(max_length=5000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
_STAGES = ["staging", "production", "archived"]
#: Another value is answered with 400, as the contract says, not with 422.
Stage = Annotated[str, Field(max_length=32, json_schema_extra={"enum": _STAGES})]


class ModelMetadata(BaseModel):
    """What the model is."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_type: Text
    framework: Text | None = None
    hyperparameters: dict[str, Any] = {}
    training_config: dict[str, Any] = {}
    feature_names: list[Text] = []
    target_variable: Text | None = None
    tags: list[Text] = []
    description: Text | None = None


class ModelMetrics(BaseModel):
    """How good it was when it was evaluated."""

    model_config = ConfigDict(extra="forbid")

    accuracy: Number | None = None
    precision: Number | None = None
    recall: Number | None = None
    f1_score: Number | None = None
    rmse: Number | None = None
    mae: Number | None = None
    mape: Number | None = None
    r2_score: Number | None = None
    custom_metrics: dict[str, Number] = {}


class RunArtifact(BaseModel):
    """Files of a run."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["run"]
    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    path: Annotated[str, Field(min_length=1, max_length=256)] = "model"


class LoggedModelArtifact(BaseModel):
    """A logged model of MLflow 3."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    type: Literal["logged_model"]
    model_id: Annotated[str, Field(pattern=r"^m-[A-Za-z0-9]{1,64}$")]


class UploadedFile(BaseModel):
    """One file of an upload."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=256)]
    content: str = Field(description="the bytes, in Base64")


class UploadedArtifact(BaseModel):
    """The files themselves."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["upload"]
    files: Annotated[list[UploadedFile], Field(min_length=1, max_length=100)]


Artifact = Annotated[RunArtifact | LoggedModelArtifact | UploadedArtifact, Field(discriminator="type")]


class RegisterRequest(BaseModel):
    """A new version of a model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    tenant_id: TenantId
    model_name: ModelName
    version: SemanticVersion | None = Field(None, description="default: the next one the registry suggests")
    metadata: ModelMetadata
    metrics: ModelMetrics = ModelMetrics()
    stage: Stage = "staging"
    artifact: Artifact


class RegisterResponse(BaseModel):
    """What was registered."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str = Field(examples=["city-works:demand-forecast:v1.2.0"])
    model_name: str
    version: str
    stage: str
    status: str = Field(examples=["registered"])
    message: str
    uploaded_at: datetime


class ModelResponse(BaseModel):
    """One version."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    tenant_id: str
    model_name: str
    version: str
    stage: str
    metadata: ModelMetadata
    metrics: ModelMetrics
    uploaded_at: datetime
    model_size_bytes: int
    model_type: str


class ModelList(BaseModel):
    """A tenant's versions, newest first."""

    models: list[ModelResponse]
    total: int
    tenant_id: str


class PromoteRequest(BaseModel):
    """A wish to move a version."""

    model_config = ConfigDict(extra="forbid")

    target_stage: Stage
    reason: Text | None = None


class PromoteResponse(BaseModel):
    """How a version was moved."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_name: str
    version: str
    previous_stage: str
    current_stage: str
    promoted_at: datetime
    message: str


class DeleteResponse(BaseModel):
    """What was deleted."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_name: str
    version: str
    status: str
    files_deleted: list[str]
    message: str

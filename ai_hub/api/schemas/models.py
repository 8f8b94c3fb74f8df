"""`/ai/models`: registration, look-up, promotion, deletion."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ai_hub.api.schemas.common import ModelName, SemanticVersion, TenantId, Timestamp
from ai_hub.errors import BadInputError
from mlflow_plugins.gates.comparison import Record

Text = Annotated[str, Field(max_length=5000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
#: What MLflow takes for a name of a metric.
MetricName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
_STAGES = ["staging", "production", "archived"]
#: Another value is answered with 400, as the contract says, not with 422.
Stage = Annotated[str, Field(json_schema_extra={"enum": _STAGES})]
_MAX_DEPTH = 32


def _json_only(value: dict[str, Any]) -> dict[str, Any]:
    if _depth(value) > _MAX_DEPTH:
        raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no NaN, no half of a character
    return value


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting and deepest <= _MAX_DEPTH:
        found, level = waiting.pop()
        deepest = max(deepest, level)
        if isinstance(found, dict | list):
            parts = found.values() if isinstance(found, dict) else found
            waiting += [(part, level + 1) for part in parts]
    return deepest


#: A JSON object.
Document = Annotated[dict[str, Any], AfterValidator(_json_only)]


class ModelMetadata(BaseModel):
    """What the model is."""

    model_config = ConfigDict(protected_namespaces=())

    model_type: str = Field(examples=["demand_forecast"])
    framework: str | None = Field(None, description="default: by the model's flavors", examples=["lightgbm"])
    hyperparameters: Document = Field({}, description="default: parameters of the run")
    training_config: Document = Field(
        {}, description="`feature_service`, where it is given, is the one the promotion gates look for"
    )
    feature_names: list[str] = Field([], description="default: by the model's signature")
    target_variable: str | None = None
    tags: list[str] = []
    description: str | None = None


class GivenMetadata(ModelMetadata):
    """What the model is; what is left out is derived from the model and its run."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_type: Text | None = Field(None, description="here, or beside `metadata`")  # type: ignore[assignment]
    framework: Text | None = None
    algorithm: Text | None = Field(None, description="here or beside `metadata`; kept in training_config")
    training_date: Timestamp | None = Field(
        None, description="here or beside `metadata`; kept in training_config"
    )
    feature_names: Annotated[list[Text], Field(max_length=10_000)] = []
    target_variable: Text | None = None
    tags: Annotated[list[Text], Field(max_length=1000)] = []
    description: Text | None = None


class ModelMetrics(BaseModel):
    """How good it was when it was evaluated."""

    accuracy: Number | None = None
    precision: Number | None = None
    recall: Number | None = None
    f1_score: Number | None = None
    rmse: Number | None = None
    mae: Number | None = None
    mape: Number | None = None
    r2_score: Number | None = None
    custom_metrics: dict[str, Number] = {}


class GivenMetrics(ModelMetrics):
    """How good it was; without any, the metrics of the run count."""

    model_config = ConfigDict(extra="forbid")

    custom_metrics: Annotated[
        dict[MetricName, Number], Field(max_length=900, json_schema_extra={"additionalProperties": False})
    ] = {}

    @model_validator(mode="after")
    def _named_once(self) -> GivenMetrics:
        if twice := sorted(self.custom_metrics.keys() & type(self).model_fields.keys()):
            raise ValueError(f"{', '.join(twice)} has a field of its own")
        return self


class RunArtifact(BaseModel):
    """Files of a run."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["run"]
    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    path: Annotated[str, Field(min_length=1, max_length=256)] = Field(
        "model", description="folder of the run, or the name of a model logged in it"
    )


class LoggedModelArtifact(BaseModel):
    """A logged model of MLflow 3."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    type: Literal["logged_model"]
    model_id: Annotated[str, Field(pattern=r"^m-[A-Za-z0-9]{1,64}$")]


class UploadedFile(BaseModel):
    """One file of an upload."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=256)] = Field(
        description="relative, with `/`", examples=["MLmodel", "data/model.lgb"]
    )
    content: str = Field(description="the bytes, in Base64")


class UploadedArtifact(BaseModel):
    """The files themselves."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["upload"]
    files: Annotated[list[UploadedFile], Field(min_length=1, max_length=100)]


Artifact = Annotated[RunArtifact | LoggedModelArtifact | UploadedArtifact, Field(discriminator="type")]
#: What the suite's clients send beside the metadata, and what of it is about the training.
_BESIDE_METADATA = ("model_type", "algorithm", "training_date")
_OF_TRAINING = ("algorithm", "training_date")
#: Name of a model of one file, as the suite has it.
_FILE = "model.joblib"


_EXAMPLE_MLMODEL = base64.b64encode(
    b"flavors:\n  lightgbm: {data: data/model.lgb}\n  python_function: {loader_module: mlflow.lightgbm}\n"
    b'signature: {inputs: \'[{"name": "lag_1h", "type": "double"}]\', outputs: \'[{"type": "double"}]\'}\n'
).decode()


class RegisterRequest(BaseModel):
    """A new version of a model."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "tenant_id": "city-works",
                    "model_name": "demand-forecast",
                    "version": "v1.2.0",
                    "metadata": {"model_type": "demand_forecast", "target_variable": "demand_kw"},
                    "metrics": {"mae": 1.7},
                    "artifact": {
                        "type": "upload",
                        "files": [
                            {"path": "MLmodel", "content": _EXAMPLE_MLMODEL},
                            {"path": "data/model.lgb", "content": "dHJlZQo="},
                        ],
                    },
                },
                {
                    "tenant_id": "city-works",
                    "model_name": "demand-forecast",
                    "version": "v1.2.0",
                    "metadata": {"model_type": "demand_forecast", "target_variable": "demand_kw"},
                    "metrics": {"mae": 1.7, "custom_metrics": {"bias": 0.1}},
                    "artifact": {
                        "type": "run",
                        "run_id": "0f0a5b8e6d1c4f1f9a3a5d6b7c8d9e0f",
                        "path": "model",
                    },
                },
                {
                    "tenant_id": "city-works",
                    "model_name": "load-lstm",
                    "version": "v1.0.0",
                    "model_type": "forecast",
                    "algorithm": "LSTM",
                    "training_date": "2026-11-01T00:00:00Z",
                    "model_file": "gASVBQAAAAAAAABLAS4=",
                },
            ],
            "allOf": [
                {
                    "oneOf": [
                        {
                            "required": [this],
                            "properties": {this: {"type": kind}, other: {"type": "null"}},
                        }
                        for this, kind, other in (
                            ("artifact", "object", "model_file"),
                            ("model_file", "string", "artifact"),
                        )
                    ]
                },
                {
                    "anyOf": [
                        {"required": ["model_type"], "properties": {"model_type": {"type": "string"}}},
                        {
                            "required": ["metadata"],
                            "properties": {
                                "metadata": {
                                    "required": ["model_type"],
                                    "properties": {"model_type": {"type": "string"}},
                                }
                            },
                        },
                    ]
                },
            ],
        },
    )

    tenant_id: TenantId
    model_name: ModelName
    version: SemanticVersion | None = Field(None, description="default: the next one the registry suggests")
    metadata: GivenMetadata = GivenMetadata()
    model_type: Text | None = Field(None, description="as in `metadata`")
    algorithm: Text | None = Field(None, description="as in `metadata`")
    training_date: Timestamp | None = Field(None, description="as in `metadata`")
    metrics: GivenMetrics = GivenMetrics()
    stage: Stage = Field(
        "staging", description="where it goes after staging, as far as the rules and the gates let it"
    )
    artifact: Artifact | None = Field(None, description="or else `model_file`")
    model_file: str | None = Field(None, description="a model of one file, in Base64, kept as model.joblib")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.artifact is None) == (self.model_file is None):
            raise ValueError("give either artifact or model_file")
        if self.model_type is None and self.metadata.model_type is None:
            raise ValueError("give metadata.model_type")
        return self

    def files(self) -> Artifact:
        """Where the model is."""
        if self.artifact is not None:
            return self.artifact
        file = UploadedFile(path=_FILE, content=self.model_file or "")
        return UploadedArtifact(type="upload", files=[file])

    def document(self) -> dict[str, Any]:
        """The metadata to keep: what was given and no more, in the fields that answers have.

        Raises:
            BadInputError: a field is there twice, with two values.
        """
        document = self.metadata.model_dump(exclude_unset=True, mode="json")
        beside = self.model_dump(include=set(_BESIDE_METADATA), exclude_none=True, mode="json")
        if differing := [name for name, value in beside.items() if document.get(name) not in {None, value}]:
            raise BadInputError(
                f"{differing[0]} and metadata.{differing[0]} differ.", hint="Send one of them."
            )
        document |= beside
        training = {name: value for name in _OF_TRAINING if (value := document.pop(name, None)) is not None}
        if training:
            document["training_config"] = document.get("training_config", {}) | training
        return document


class RegisterResponse(BaseModel):
    """What was registered."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str = Field(examples=["city-works:demand-forecast:v1.2.0"])
    model_name: str
    version: str
    stage: str = Field(description="where it is, which is not where it was to go when a gate refused it")
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
    total: int = Field(description="how many there are, whatever the limit")
    tenant_id: str


class ComparisonList(BaseModel):
    """Comparisons of a version with those that were in production, the newest look first."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    comparisons: list[Record] = Field(description="gains are in % of the MAE of the version in production")


class PromoteRequest(BaseModel):
    """A wish to move a version."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"target_stage": "production", "reason": "MAE is down by 4 %"}]},
    )

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
    files_deleted: list[str] = Field(description="keys in the bucket of models")
    message: str

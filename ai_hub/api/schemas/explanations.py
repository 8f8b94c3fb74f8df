"""`POST /ai/explain`, `POST /ai/explain/global` and `GET /ai/explain/{id}`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat

from ai_hub.api.schemas.common import AssetId, ModelName, TenantId, Timestamp, whole
from ai_hub.api.schemas.forecasts import Quantiles

#: What a tree takes for a number; null: the feature has no value.
FeatureValue = Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictBool | None
Version = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="`v1.2.0`, MLflow's number, a stage, or `latest`: the newest in staging",
        examples=["v1.2.0"],
    ),
]
Samples = Annotated[int, Field(ge=10, le=1000, strict=True), BeforeValidator(whole)]


class ExplainRequest(BaseModel):
    """Which prediction of which model."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "tenant_id": "city-works",
                    "model_name": "load-forecast",
                    "input_features": {"hour_of_day": 9, "lag_1h": 5.2, "lag_24h": 4.9},
                }
            ]
        },
    )

    tenant_id: TenantId
    model_name: ModelName
    model_version: Version = "production"
    prediction_id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="id of a forecast of a model with a horizon; instead of input_features"
    )
    asset_id: AssetId | None = Field(None, description="of a forecast of several assets: which one")
    target_time: Timestamp | None = Field(
        None, description="of a forecast: start of the step to explain; default: its first one"
    )
    quantile: Literal["p10", "p50", "p90"] | None = Field(
        None, description="of a forecast: what to explain; default: the point forecast"
    )
    input_features: Annotated[dict[str, FeatureValue], Field(min_length=1, max_length=2000)] | None = Field(
        None, description="each feature of the model; those it can do without may be missing"
    )
    explanation_type: Literal["shap"] = "shap"
    max_samples: Samples = Field(100, description="not used: contributions of trees are exact")


class FeatureImportance(BaseModel):
    """What a feature adds to the prediction."""

    feature_name: str = Field(
        description="of a forecast also `(calibration)` and `(bounds)`, which move it after the trees"
    )
    importance: float = Field(description="the contribution without its sign")
    value: Any = Field(None, description="as it was given; null: it is missing")
    contribution: float
    rank: int = Field(ge=1, description="1: the most important one")


class ExplanationMetadata(BaseModel):
    """What was explained, and how."""

    model_config = ConfigDict(protected_namespaces=())

    explained_at: datetime
    model_name: str
    model_version: str = Field(examples=["v1.2.0"])
    explanation_method: Literal["shap"]
    base_value: float = Field(
        description="the mean prediction for the rows of the training; of a forecast what is usual at its "
        "target, moved by that mean"
    )
    prediction_value: float = Field(description="of objectives with a transformation: before it")
    samples_used: int = Field(description="predictions that were explained")


class WaterfallStep(BaseModel):
    """A contribution on top of those before it; the first one begins at the base value."""

    feature_name: str
    contribution: float
    cumulative_value: float


class Force(BaseModel):
    """A contribution as a force plot shows it."""

    feature_name: str
    feature_value: Any = None
    shap_value: float
    is_positive: bool


class ExplanationSummary(BaseModel):
    """An explanation in short."""

    top_3_features: list[str]
    total_contribution: float = Field(description="of all features without their signs")
    explanation: str


class ExplainedForecast(BaseModel):
    """The step of a forecast that was explained."""

    forecast_id: UUID
    asset_id: str
    target_time: datetime
    lead_hours: float
    explained: Literal["point_forecast", "p10", "p50", "p90"]
    unit: str | None
    point_forecast: float
    quantiles: Quantiles | None = Field(description="null: the model has none")


class Explanation(BaseModel):
    """The features of a prediction, most important first."""

    model_config = ConfigDict(protected_namespaces=())

    explanation_id: UUID
    tenant_id: str
    model_name: str
    model_version: str
    feature_importances: list[FeatureImportance]
    metadata: ExplanationMetadata
    waterfall_data: list[WaterfallStep]
    force_data: list[Force]
    summary: ExplanationSummary
    forecast: ExplainedForecast | None = Field(description="null: of given features")


class GlobalExplainRequest(BaseModel):
    """Which model, and by how many predictions."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {"tenant_id": "city-works", "model_name": "load-forecast", "dataset_sample_size": 100}
            ]
        },
    )

    tenant_id: TenantId
    model_name: ModelName
    model_version: Version = "production"
    dataset_sample_size: Samples = Field(
        100, description="feature rows of the model's assets, drawn from the last week or longer"
    )


class GlobalImportance(BaseModel):
    """What a feature adds to predictions."""

    feature_name: str
    mean_abs_shap: float
    mean_shap: float
    importance_rank: int = Field(ge=1)


class GlobalExplanation(BaseModel):
    """The features of a model, most important first."""

    model_config = ConfigDict(protected_namespaces=())

    explanation_id: UUID
    tenant_id: str
    model_name: str
    model_version: str
    global_importances: list[GlobalImportance]
    samples_analyzed: int
    generated_at: datetime

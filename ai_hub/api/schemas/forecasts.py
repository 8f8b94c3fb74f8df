"""`POST /ai/forecast`, `GET /ai/forecast/{id}`, and what is below `GET /ai/forecasts`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ai_hub.api.schemas.common import AssetId, FeatureName, ModelName, TenantId, Timestamp, whole
from ai_hub.forecasting import By

_LONGEST_HORIZON_H = 168
_MINUTES_OF_A_DAY = 1440
_MOST_READINGS = 10_000
_MOST_FEATURES = 200


class ForecastType(StrEnum):
    """What is forecast, as the suite names it; the log keeps it, and lists by it."""

    LOAD = "load"
    GENERATION = "generation"
    PRICE = "price"


_Whole = Annotated[int, BeforeValidator(whole)]


class HistoricalValue(BaseModel):
    """A reading that the caller knows."""

    model_config = ConfigDict(extra="forbid")

    timestamp: Timestamp
    value: float = Field(allow_inf_nan=False)


class ForecastRequest(BaseModel):
    """Which asset, how far and in which steps."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"tenant_id": "city-works", "asset_id": "meter-008", "horizon_hours": 24}],
        },
    )

    tenant_id: TenantId
    asset_id: AssetId
    forecast_type: ForecastType = ForecastType.LOAD
    horizon_hours: _Whole = Field(
        24, ge=1, le=_LONGEST_HORIZON_H, strict=True, description="no more than that of the model"
    )
    interval_minutes: _Whole = Field(
        60, ge=15, le=_MINUTES_OF_A_DAY, strict=True, description="the step of the model"
    )
    include_quantiles: bool = True
    historical_data: Annotated[list[HistoricalValue], Field(max_length=_MOST_READINGS)] | None = Field(
        None, description="refused unless empty: forecasts use the readings that were ingested"
    )
    model_name: ModelName | None = Field(
        None, description="default: the model in production that was trained on the asset"
    )
    features: Annotated[dict[FeatureName, Any], Field(max_length=_MOST_FEATURES)] | None = Field(
        None, description="refused unless empty: forecasts use the declared features"
    )


class Quantiles(BaseModel):
    """Of one step."""

    p10: float | None
    p50: float | None
    p90: float | None


class ForecastPoint(BaseModel):
    """The forecast of one step."""

    timestamp: datetime = Field(description="start of the step")
    point_forecast: float | None = Field(description="mean over the step; none: features are missing")
    quantiles: Quantiles | None = None
    confidence: float | None = Field(
        None, description="share of values that the interval holds: 0.8 from the 10 % to the 90 % quantile"
    )
    prediction_interval_lower: float | None = None
    prediction_interval_upper: float | None = None


class ForecastMetadata(BaseModel):
    """Where a forecast comes from."""

    model_config = ConfigDict(protected_namespaces=())

    generated_at: datetime
    model_name: str
    model_version: str | None = Field(examples=["v1.2.0"], description="none: it is not registered")
    features_used: list[str] = []
    training_samples: int | None = None
    training_date: datetime | None = None
    mae: float | None = Field(None, description="of the model's backtest, as the other errors are")
    rmse: float | None = None
    mape: float | None = None
    issued_at: datetime = Field(description="time whose features were used: the first step begins then")
    unit: str | None = Field(None, description="of the forecasts; none: nobody said it", examples=["kW"])
    role: Literal["live", "shadow", "replay", "backtest"] = Field(
        description="live: of the version in production, as all that are listed"
    )


class ForecastSummary(BaseModel):
    """A forecast without its steps."""

    model_config = ConfigDict(protected_namespaces=())

    forecast_id: UUID
    tenant_id: str
    asset_id: str
    forecast_type: ForecastType
    horizon_hours: float
    interval_minutes: float
    metadata: ForecastMetadata


class Forecast(ForecastSummary):
    """A forecast of an asset."""

    forecasts: list[ForecastPoint]
    degraded: bool = Field(
        description="features were missing: some steps may have no forecast, or a worse one"
    )


class ForecastList(BaseModel):
    """Forecasts of a tenant, newest first."""

    forecasts: list[ForecastSummary]
    total: int


class AccuracyHour(BaseModel):
    """What was forecast for an hour and what was measured; none: nothing was."""

    model_config = ConfigDict(protected_namespaces=())

    timestamp: datetime = Field(description="start of the hour")
    actual: float | None
    forecast: float | None
    p10: float | None
    p90: float | None
    issued_at: datetime | None
    model_name: str | None
    model_version: str | None


class ScoresOf(BaseModel):
    """Errors of forecasts, in the unit of their values, over all hours that have a measured value."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    of: str = Field(description="number of the version, asset, day (UTC) or first hour of six of lead")
    hours: int = Field(description="hours with a forecast and a measured value, once for each issue")
    provisional_hours: int = Field(description="those of them whose readings may not be complete yet")
    mae: float
    rmse: float
    bias: float = Field(description="mean of forecast minus actual")
    mae_over_mean: float | None = Field(description="MAE over the mean of the absolute actual values")
    coverage: float | None = Field(description="share within the band from p10 to p90")
    width: float | None = Field(description="mean of p90 minus p10")
    pinball: float | None = Field(description="mean pinball loss of p10, p50 and p90")
    skill: float | None = Field(
        description="part by which the MAE is below that of the best naive forecast: the same hour of the "
        "last day, or week, that was known at issue"
    )


class ForecastScores(BaseModel):
    """Scores of a tenant's forecasts as of the last refresh of features."""

    tenant_id: str
    by: By
    scores: list[ScoresOf]


class MeterFound(BaseModel):
    """A meter that errs unlike its own weeks before, and unlike the others."""

    asset_id: str
    kind: Literal["error", "bias"]
    value: float = Field(description="error or bias of the week, as a share of what was measured")
    low: float | None = Field(description="from which on it was to be expected; none: of an error")
    high: float = Field(description="up to which it was to be expected")


class ModelFindingOf(BaseModel):
    """What is wrong with a model in production, or was."""

    model_config = ConfigDict(protected_namespaces=())

    finding_id: UUID
    model_name: str
    version: int | None = Field(
        description="that made the forecasts that were judged; none: of a model that is stale, or found "
        "before versions were recorded"
    )
    kind: Literal["error", "bias", "coverage", "stale", "meters"]
    value: float = Field(
        description="MAE, bias or share within the band; hours without a forecast if stale; how many meters"
    )
    usual: float = Field(
        description="mean of the weeks before; 0.8 of the band; hours between two issues; 0 meters"
    )
    limit: float = Field(
        description="above which an error is a finding, how far from usual a bias or share is, and how many "
        "standard deviations a meter"
    )
    meters: list[MeterFound] = Field(default=[], description="those that are farthest off, twenty at most")
    since: datetime = Field(description="begin of the week, or weeks, when it was first seen; the last issue")
    detected_at: datetime
    resolved_at: datetime | None = Field(description="none: it is open")


class ModelFindings(BaseModel):
    """Findings about a tenant's models as of the last check, newest first."""

    tenant_id: str
    findings: list[ModelFindingOf]


class ForecastAccuracy(BaseModel):
    """Live forecasts of an asset beside what was measured, by hour."""

    tenant_id: str
    asset_id: str
    unit: str | None
    now: datetime
    hours: list[AccuracyHour]
    errors_by_lead: list[ScoresOf] = Field(
        description="of all live issues for the days (UTC) shown, as of the last refresh of features"
    )

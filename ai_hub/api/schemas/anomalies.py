"""`POST /ai/anomaly`, `GET /ai/anomaly/{id}` and `GET /ai/anomalies`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ai_hub.api.schemas.common import AssetId, TenantId, Timestamp, whole

#: Of one series. Reading so many takes the event loop some 40 ms, a week of hours less than one.
MAX_POINTS = 10_000
#: Squares of values are finite.
_LARGEST = 1e100

Method = Literal[
    "z_score", "iqr", "isolation_forest", "local_outlier_factor", "prophet_decomposition", "forecast_band"
]


class Point(BaseModel):
    """A value at a time."""

    model_config = ConfigDict(extra="forbid")

    timestamp: Timestamp
    value: float = Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False, strict=True)
    metadata: dict[str, Any] | None = Field(None, description="not used")


Points = Annotated[list[Point], Field(min_length=2, max_length=MAX_POINTS)]


class AnomalyRequest(BaseModel):
    """Which points to judge, and by what."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "tenant_id": "city-works",
                    "asset_id": "meter-008",
                    "time_series": [
                        {"timestamp": "2026-11-25T10:00:00Z", "value": 42.5},
                        {"timestamp": "2026-11-25T11:00:00Z", "value": 138.2},
                    ],
                    "training_data": [
                        {"timestamp": f"2026-11-24T{hour:02}:00:00Z", "value": 40.0 + hour % 5}
                        for hour in range(24)
                    ],
                    "method": "z_score",
                }
            ]
        },
    )

    tenant_id: TenantId
    asset_id: AssetId
    time_series: Points = Field(description="in any order; no time twice")
    method: Method = Field(
        "isolation_forest",
        description="prophet_decomposition is STL of statsmodels: regular times, two days of them at least;"
        " forecast_band needs the scope forecasts:read, and a live forecast of each point",
    )
    sensitivity: float = Field(
        3.0,
        ge=1,
        le=5,
        strict=True,
        description="standard deviations from which on a point is an anomaly: a lower one finds more",
    )
    lookback_hours: Annotated[int, BeforeValidator(whole)] = Field(
        168,
        ge=1,
        le=8760,
        strict=True,
        description="without training_data, the points of these last hours of time_series are the reference",
    )
    training_data: Points | None = Field(
        None, description="what is usual; default: the newest points of time_series itself"
    )


class ExpectedRange(BaseModel):
    """Values that would be no anomaly at this point."""

    min: float
    max: float
    mean: float
    std: float


class Anomaly(BaseModel):
    """A point above the sensitivity."""

    timestamp: datetime
    value: float
    anomaly_score: float = Field(description="standard deviations; at most 100")
    is_anomaly: Literal[True] = True
    expected_range: ExpectedRange
    severity: Literal["low", "medium", "high", "critical"] = Field(
        description="by the score alone: low up to 2.5, medium up to 3.5, high up to 4.5"
    )
    explanation: str = Field(examples=["5.12 standard deviations from the mean of 168 points."])


class AnomalySummary(BaseModel):
    """Of all points of the series."""

    total_points: int
    anomalies_detected: int
    anomaly_rate: float = Field(ge=0, le=1)
    mean_anomaly_score: float
    max_anomaly_score: float
    method_used: str
    sensitivity: float


class DetectionSummary(BaseModel):
    """A detection without its anomalies."""

    detection_id: UUID
    tenant_id: str
    asset_id: str
    summary: AnomalySummary
    generated_at: datetime


class Detection(DetectionSummary):
    """What was found."""

    anomalies: list[Anomaly] = Field(description="in the order of their times")


class DetectionList(BaseModel):
    """A tenant's detections, newest first."""

    detections: list[DetectionSummary]
    total: int
    tenant_id: str

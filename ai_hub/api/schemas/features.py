"""`POST /ai/features/get` and `GET /ai/features/sets`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ai_hub.api.schemas.common import AssetId, FeatureName, FeatureSetName, TenantId, Timestamp, whole

_LONGEST_LOOKBACK_H = 8760
_MOST_ASSETS = 1000
_MOST_NAMES = 200


class FeatureStatus(StrEnum):
    """What a feature's value is worth."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"
    #: it looks further back than `lookback_hours` allows
    OUTSIDE_LOOKBACK = "OUTSIDE_LOOKBACK"
    #: the servers that know it are down
    UNAVAILABLE = "UNAVAILABLE"


class FeatureSource(StrEnum):
    """Where an asset's features came from."""

    REDIS = "redis"
    TIMESCALEDB = "timescaledb"
    CALENDAR = "calendar"


class FeaturesRequest(BaseModel):
    """Which features of which assets, and at what time."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"tenant_id": "city-works", "asset_id": "meter-008", "feature_set": "forecast_basic"},
            ],
            "oneOf": [
                {
                    "required": [this],
                    "properties": {this: {"type": kind}, other: {"type": "null"}},
                }
                for this, kind, other in (
                    ("asset_id", "string", "asset_ids"),
                    ("asset_ids", "array", "asset_id"),
                )
            ],
        },
    )

    tenant_id: TenantId
    asset_id: AssetId | None = Field(None, description="one asset; or else `asset_ids`")
    asset_ids: Annotated[list[AssetId], Field(min_length=1, max_length=_MOST_ASSETS)] | None = Field(
        None, description="many assets in one call: the answer has `results`, in this order"
    )
    timestamp: Timestamp | None = Field(
        None, description="features as of this time, from readings before it alone; default: now"
    )
    lookback_hours: Annotated[int, BeforeValidator(whole)] = Field(
        168,
        ge=1,
        le=_LONGEST_LOOKBACK_H,
        strict=True,
        description="features that look further back are left empty, with status OUTSIDE_LOOKBACK",
    )
    feature_set: FeatureSetName | None = Field(None, description="default: forecast_basic")
    feature_names: Annotated[list[FeatureName], Field(min_length=1, max_length=_MOST_NAMES)] | None = Field(
        None, description="only these features; of `feature_set` if it is given, else of any"
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.asset_id is None) == (self.asset_ids is None):
            raise ValueError("give either asset_id or asset_ids")
        return self


class AssetFeatures(BaseModel):
    """Features of one asset."""

    asset_id: str = Field(examples=["meter-008"])
    features: dict[str, float | int | str | bool | list[float | None] | None] = Field(
        examples=[{"hour_of_day": 9, "lag_1h": 5.2186, "lag_24h": None}]
    )
    feature_count: int = Field(description="features with a value")
    status: dict[str, FeatureStatus] = Field(
        description="of each feature",
        examples=[{"hour_of_day": "PRESENT", "lag_1h": "PRESENT", "lag_24h": "NULL_VALUE"}],
    )
    event_timestamp: datetime | None = Field(
        None,
        description="time of the row the features are from, of several views the oldest; none: not known",
    )
    hour: datetime | None = Field(description="start of the hour that `event_timestamp` is in")
    source: FeatureSource
    degraded: bool = Field(description="servers are down: some features are missing or older than usual")
    computed_at: datetime


class FeaturesResponse(AssetFeatures):
    """Features of the asset asked for."""

    tenant_id: str
    timestamp: datetime


class FeaturesBatchResponse(BaseModel):
    """Features of each asset asked for, in the order of the request."""

    tenant_id: str
    timestamp: datetime
    results: list[AssetFeatures]
    total: int
    degraded: bool = Field(description="whether any of the results is")
    computed_at: datetime


class FeatureSet(BaseModel):
    """A feature service."""

    name: str
    description: str
    features: list[str]
    use_cases: list[str]
    latency: str
    storage: str


class FeatureSetsResponse(BaseModel):
    """Every feature service there is."""

    feature_sets: dict[str, FeatureSet]
    total: int

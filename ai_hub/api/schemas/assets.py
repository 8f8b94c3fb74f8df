"""`GET /ai/assets`."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Asset(BaseModel):
    """A meter or station."""

    asset_id: str = Field(examples=["meter-008"])
    kind: str | None = Field(examples=["electricity"])
    unit: str | None = Field(examples=["kWh"])
    feature_unit: str | None = Field(
        None, description="what its features and forecasts are in; none: nobody said it", examples=["kW"]
    )
    timezone: str = Field(examples=["Europe/Berlin"])
    latitude: float | None
    longitude: float | None
    capacity: float | None = Field(description="the most it can measure, in its unit")


class AssetList(BaseModel):
    """A tenant's assets, by id."""

    assets: list[Asset]
    total: int
    tenant_id: str

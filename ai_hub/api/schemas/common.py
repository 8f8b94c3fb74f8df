"""Identifiers and times, each valid everywhere the product stores it, and assets."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from ai_hub.names import ASSET_LENGTH, ASSET_PATTERN, WORKSPACE_PATTERN
from ai_hub.times import EPOCH
from mlflow_plugins.lifecycle import semver

#: A workspace of MLflow and a key of every table.
TenantId = Annotated[str, StringConstraints(pattern=f"^{WORKSPACE_PATTERN}$", min_length=2, max_length=63)]
AssetId = Annotated[
    str, StringConstraints(pattern=f"^{ASSET_PATTERN}$", min_length=1, max_length=ASSET_LENGTH)
]
FeatureName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
FeatureSetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
#: One folder in the bucket of models.
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", max_length=128)]


def _semantic(value: Any) -> Any:
    if isinstance(value, str) and semver.parsed(value) is None:
        raise ValueError(f"is no semantic version such as v1.2.0; the nearest one is {semver.closest(value)}")
    return value


#: `v1.2.0`; a missing `v` is added.
SemanticVersion = Annotated[
    str,
    BeforeValidator(_semantic),
    StringConstraints(pattern=r"^v?(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})$"),
]

_TIME = re.compile(r"\d{4}-.{6,44}$", re.ASCII)


def _text_only(value: Any) -> Any:
    # pydantic would take numbers, as text too, for seconds since 1970, and fractions of any length
    if isinstance(value, datetime) or (isinstance(value, str) and _TIME.match(value)):
        return value
    raise ValueError("must be text such as 2026-11-25T14:00:00Z")


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}$", re.ASCII)


def _day_only(value: Any) -> Any:
    if isinstance(value, str) and _DAY.match(value):
        return value
    raise ValueError("must be a day such as 2026-11-25")  # pydantic would take 0 for the first of 1970


#: A day of UTC.
Day = Annotated[
    date,
    BeforeValidator(_day_only),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-11-25"]}),
]

_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def _in_range(value: datetime) -> datetime:
    if not EPOCH <= value < _LATEST:
        raise ValueError("must lie between 1970 and 2200")
    return value.astimezone(UTC)


#: A time with its zone, in UTC from here on.
Timestamp = Annotated[
    AwareDatetime,
    BeforeValidator(_text_only),
    AfterValidator(_in_range),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-25T14:00:00Z"]}),
]


def whole(value: object) -> object:
    """A number without a fraction as an integer, because to JSON 24.0 and 24 are the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


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

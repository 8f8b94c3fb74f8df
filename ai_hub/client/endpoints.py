"""The service's endpoints as values: what to send, and what comes back; nothing is sent here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # of a dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ai_hub.api.schemas.common import AssetList
from ai_hub.api.schemas.exports import ExportDeleted, ExportFiles, ExportJob, ExportList
from ai_hub.api.schemas.features import FeaturesBatchResponse, FeatureSetsResponse, FeaturesResponse
from ai_hub.api.schemas.forecasts import Forecast
from ai_hub.api.schemas.models import ModelList
from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID


_FEATURES = "/ai/features/get"
Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request that may be repeated: it only reads, or carries a key that makes the repetition the same."""

    method: str
    path: str
    answer: type[Answer]
    query: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    #: seconds the service may wait before it answers
    waits_s: float = 0.0

    def parse(self, content: bytes) -> Answer:
        """The answer's body as a value.

        Raises:
            AiHubError: it is not what this version of the client understands.
        """
        try:
            return self.answer.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field_name = ".".join(str(part) for part in first["loc"]) or "body"
            raise AiHubError(
                f"{self.method} {self.path} was answered with what this client cannot read: "
                f"{field_name}: {first['msg']}.",
                hint="Is it the address of AI Hub, and of the same version?",
            ) from error


@dataclass(frozen=True)
class Download:
    """A file to be downloaded; it appears at `to` when it is complete."""

    path: str
    query: dict[str, Any]
    to: Path
    #: None: not known
    sha256: str | None


def features(
    tenant: str,
    assets: str | Sequence[str],
    feature_set: str | None,
    *,
    names: Sequence[str] | None,
    at: datetime | None,
    lookback_hours: int | None,
) -> Call[Any]:
    """Features of one asset (`FeaturesResponse`), or of many (`FeaturesBatchResponse`)."""
    one = isinstance(assets, str)
    body = {
        "tenant_id": tenant,
        "asset_id" if one else "asset_ids": assets if one else list(assets),
        "feature_set": feature_set,
        "feature_names": None if names is None else list(names),
        "timestamp": None if at is None else at.isoformat(),
        "lookback_hours": lookback_hours,
    }
    if one:
        return Call("POST", _FEATURES, FeaturesResponse, body=_without_none(body))
    return Call("POST", _FEATURES, FeaturesBatchResponse, body=_without_none(body))


def feature_sets() -> Call[FeatureSetsResponse]:
    """Every feature service."""
    return Call("GET", "/ai/features/sets", FeatureSetsResponse)


def export(tenant: str, wait_s: float, **fields: Any) -> Call[ExportJob]:
    """Start an export; `fields` are those of `ExportRequest`, `idempotency_key` among them."""
    body = {"tenant_id": tenant, **fields}
    return Call(
        "POST", "/ai/features/export", ExportJob, {"wait_s": wait_s}, body=_without_none(body), waits_s=wait_s
    )


def export_job(tenant: str, export_id: UUID) -> Call[ExportJob]:
    """State of an export."""
    return Call("GET", f"/ai/features/exports/{export_id}", ExportJob, {"tenant_id": tenant})


def exports(
    tenant: str, feature_set: str | None, status: str | None, limit: int, offset: int
) -> Call[ExportList]:
    """The tenant's exports."""
    query = {"tenant_id": tenant, "feature_set": feature_set, "status_filter": status}
    return Call("GET", "/ai/features/exports", ExportList, _without_none(query) | _page(limit, offset))


def export_files(tenant: str, export_id: UUID) -> Call[ExportFiles]:
    """Files of a completed export; there are at most as many as months of ten years."""
    query = {"tenant_id": tenant, "limit": 1000}
    return Call("GET", f"/ai/features/exports/{export_id}/files", ExportFiles, query)


def delete_export(tenant: str, export_id: UUID) -> Call[ExportDeleted]:
    """Delete an export with its files."""
    return Call("DELETE", f"/ai/features/exports/{export_id}", ExportDeleted, {"tenant_id": tenant})


def forecast(tenant: str, asset: str, **fields: Any) -> Call[Forecast]:
    """Forecast an asset; `fields` are those of `ForecastRequest`. A repeated one is logged once more."""
    body = {"tenant_id": tenant, "asset_id": asset, **fields}
    return Call("POST", "/ai/forecast", Forecast, body=_without_none(body))


def assets(tenant: str, kind: str | None, limit: int, offset: int) -> Call[AssetList]:
    """The tenant's assets."""
    query = {"tenant_id": tenant, "kind": kind}
    return Call("GET", "/ai/assets", AssetList, _without_none(query) | _page(limit, offset))


def units(tenant: str, assets: Sequence[str]) -> Call[AssetList]:
    """Some of the tenant's assets, at most a hundred."""
    query = {"tenant_id": tenant, "asset_id": list(assets), "limit": len(assets)}
    return Call("GET", "/ai/assets", AssetList, query)


def models(tenant: str, model: str | None, stage: str | None, limit: int, offset: int) -> Call[ModelList]:
    """The tenant's model versions."""
    query = {"tenant_id": tenant, "model_name": model, "stage": stage}
    return Call("GET", "/ai/models/", ModelList, _without_none(query) | _page(limit, offset))


def _page(limit: int, offset: int) -> dict[str, int]:
    return {"limit": limit, "offset": offset} if offset else {"limit": limit}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

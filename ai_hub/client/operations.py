"""What takes more than one request, as generators: they yield steps and are sent their results.

The synchronous client does each step at once, the asynchronous one awaits it; their order is here alone.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import BaseModel

from ai_hub.api.schemas.exports import ExportStatus
from ai_hub.client import endpoints, predictions
from ai_hub.client.endpoints import Call
from ai_hub.client.errors import ExportFailedError
from ai_hub.errors import AiHubError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from ai_hub.api.schemas.exports import ExportFiles, ExportJob
    from ai_hub.api.schemas.features import AssetFeatures
    from ai_hub.client.predictions import OnDegraded, Prediction, UnitCache
    from ai_hub.client.production_model import ProductionModel, ProductionModels


_ANSWER_WAIT_S = 30.0
_POLL_S = 1.0
_ASSETS_AT_ONCE = 100
_log = logging.getLogger("ai_hub.client")


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Blocking:
    """A function that computes or blocks; the asynchronous client runs it in a thread."""

    function: Callable[[], Any]


Step: TypeAlias = Call[Any] | endpoints.Download | Sleep | Blocking
T = TypeVar("T")
Answer = TypeVar("Answer", bound=BaseModel)
Operation: TypeAlias = "Generator[Step, Any, T]"


def request(call: Call[Answer]) -> Operation[Answer]:
    """One request."""
    answer: Answer = yield call
    return answer


def model(models: ProductionModels, name: str) -> Operation[ProductionModel]:
    """Open a model."""
    opened: ProductionModel = yield Blocking(lambda: models.get(name))
    return opened


def predict(
    models: ProductionModels,
    units: UnitCache,
    tenant: str,
    name: str,
    assets: str | Sequence[str],
    *,
    at: datetime | None,
    on_degraded: OnDegraded,
) -> Operation[list[Prediction]]:
    """Predictions of the version in use from the assets' features.

    Raises:
        ConflictError: features of an asset are no longer in the unit that the model was trained in.
    """
    production = yield from model(models, name)
    current = production.current
    names = predictions.required_features(current)
    many = [assets] if isinstance(assets, str) else assets
    answer = yield endpoints.features(
        tenant, many, current.feature_service, names=names, at=at, lookback_hours=None
    )
    # the response has each asset once
    by_asset: dict[str, AssetFeatures] = {row.asset_id: row for row in answer.results}
    rows = [by_asset[asset] for asset in many]
    if current.card is not None:
        current.check_units((yield from _units(units, tenant, many)))
    result: list[Prediction] = yield Blocking(
        lambda: predictions.predict(production, current, rows, on_degraded)
    )
    return result


def _units(cache: UnitCache, tenant: str, assets: Sequence[str]) -> Operation[dict[str, str | None]]:
    """Units of the features of these assets; while the service is down, those it said last."""
    due = cache.due(assets)
    for at in range(0, len(due), _ASSETS_AT_ONCE):
        part = due[at : at + _ASSETS_AT_ONCE]
        try:
            answer = yield endpoints.units(tenant, part)
        except ServiceDownError as error:
            _log.warning("units of the assets are not checked: %s", error)
            break
        cache.put(part, {asset.asset_id: asset.feature_unit for asset in answer.assets})
    return cache.get(assets)


def export(tenant: str, *, wait: bool, **fields: Any) -> Operation[ExportJob]:
    """Start an export and, if asked, wait until it has ended."""
    # a repeated request must not start a second job
    fields["idempotency_key"] = fields.get("idempotency_key") or secrets.token_hex(16)
    job: ExportJob = yield endpoints.export(tenant, _ANSWER_WAIT_S if wait else 0.0, **fields)
    while wait and job.status in {ExportStatus.PENDING, ExportStatus.RUNNING}:
        yield Sleep(_POLL_S)
        job = yield endpoints.export_job(tenant, job.export_id)
    if wait and job.status == ExportStatus.FAILED:
        raise ExportFailedError(job)
    return job


def download(tenant: str, export_id: UUID, to: Path) -> Operation[list[Path]]:
    """Fetch the files of an export: one to `to`, those of a partitioned one below it."""
    listing: ExportFiles = yield endpoints.export_files(tenant, export_id)
    paths = []
    for file in listing.files:
        path = to / file.path if file.path else to
        if not path.resolve().is_relative_to(to.resolve()):
            raise AiHubError(f"The service names a file outside of {to}: {file.path!r}.")
        query = {"tenant_id": tenant} | ({"path": file.path} if file.path else {})
        yield endpoints.Download(
            f"/ai/features/exports/{export_id}/download", query, path, file.sha256 or None
        )
        paths.append(path)
    return paths

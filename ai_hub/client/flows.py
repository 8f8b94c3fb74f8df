"""What takes more than one request, as generators: they yield what to do and are sent what came of it.

The sync client does each step at once, the async one awaits it; the order of the steps is told here alone.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import BaseModel

from ai_hub.api.schemas.exports import ExportStatus
from ai_hub.client import calls, predictions
from ai_hub.client.calls import Call
from ai_hub.client.errors import ExportFailedError
from ai_hub.errors import AiHubError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from ai_hub.api.schemas.exports import ExportFiles, ExportJob
    from ai_hub.api.schemas.features import AssetFeatures
    from ai_hub.client.models.live import LiveModel
    from ai_hub.client.models.shelf import Shelf
    from ai_hub.client.models.units import Units
    from ai_hub.client.predictions import OnDegraded, Prediction

_ANSWER_WAIT_S = 30.0
_POLL_S = 1.0
_ASSETS_AT_ONCE = 100
_log = logging.getLogger("ai_hub.client")


@dataclass(frozen=True)
class Pause:
    """Wait so long."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Something that computes or blocks: files, the registry, the model."""

    do: Callable[[], Any]


Step: TypeAlias = Call[Any] | calls.Download | Pause | Work
T = TypeVar("T")
Answer = TypeVar("Answer", bound=BaseModel)
Flow: TypeAlias = "Generator[Step, Any, T]"


def ask(call: Call[Answer]) -> Flow[Answer]:
    """One request."""
    answer: Answer = yield call
    return answer


def model(shelf: Shelf, name: str) -> Flow[LiveModel]:
    """Open a model."""
    found: LiveModel = yield Work(lambda: shelf.get(name))
    return found


def predict(
    shelf: Shelf,
    tenant: str,
    name: str,
    assets: str | Sequence[str],
    *,
    at: datetime | None,
    on_degraded: OnDegraded,
) -> Flow[list[Prediction]]:
    """Features for the version of the moment, and what it says to them.

    Raises:
        ConflictError: features of an asset are no longer in the unit that the model was trained in.
    """
    live = yield from model(shelf, name)
    current = live.current
    names = predictions.wanted(current)
    many = [assets] if isinstance(assets, str) else assets
    answer = yield calls.features(
        tenant, many, current.feature_service, names=names, at=at, lookback_hours=None
    )
    # the answer names each asset once
    by_asset: dict[str, AssetFeatures] = {row.asset_id: row for row in answer.results}
    rows = [by_asset[asset] for asset in many]
    if current.card is not None:
        current.check_units((yield from _units(shelf.units, tenant, many)))
    found: list[Prediction] = yield Work(lambda: predictions.predict(live, current, rows, on_degraded))
    return found


def _units(known: Units, tenant: str, assets: Sequence[str]) -> Flow[dict[str, str | None]]:
    """Units of the features of these assets; of those that cannot be had, what was known last."""
    due = known.due(assets)
    for at in range(0, len(due), _ASSETS_AT_ONCE):
        part = due[at : at + _ASSETS_AT_ONCE]
        try:
            answer = yield calls.units(tenant, part)
        except ServiceDownError as error:
            _log.warning("units of the assets are not checked: %s", error)
            break
        known.put(part, {asset.asset_id: asset.feature_unit for asset in answer.assets})
    return known.get(assets)


def export(tenant: str, *, wait: bool, **fields: Any) -> Flow[ExportJob]:
    """Start an export and, if asked, wait until it has ended."""
    # a repeated request must not start a second job
    fields["idempotency_key"] = fields.get("idempotency_key") or secrets.token_hex(16)
    job: ExportJob = yield calls.export(tenant, _ANSWER_WAIT_S if wait else 0.0, **fields)
    while wait and job.status in {ExportStatus.PENDING, ExportStatus.RUNNING}:
        yield Pause(_POLL_S)
        job = yield calls.export_job(tenant, job.export_id)
    if wait and job.status == ExportStatus.FAILED:
        raise ExportFailedError(job)
    return job


def download(tenant: str, export_id: UUID, to: Path) -> Flow[list[Path]]:
    """Fetch the files of an export: one to `to`, those of a partitioned one below it."""
    found: ExportFiles = yield calls.export_files(tenant, export_id)
    fetched = []
    for file in found.files:
        place = to / file.path if file.path else to
        if not place.resolve().is_relative_to(to.resolve()):
            raise AiHubError(f"The service names a file outside of {to}: {file.path!r}.")
        query = {"tenant_id": tenant} | ({"path": file.path} if file.path else {})
        yield calls.Download(f"/ai/features/exports/{export_id}/download", query, place, file.sha256 or None)
        fetched.append(place)
    return fetched

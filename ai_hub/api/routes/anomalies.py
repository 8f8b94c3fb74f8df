"""Anomalies of series that requests bring."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID, uuid4

import numpy as np
import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.analyses import Analysis
from ai_hub.api.schemas.anomalies import AnomalyRequest, Detection, DetectionList, DetectionSummary, Method
from ai_hub.api.services import (
    AUTHENTICATED,
    AssetQuery,
    Caller,
    Limit,
    Offset,
    TenantQuery,
    openapi_links,
    own_tenant,
    permit,
    services_of,
)
from ai_hub.db.transactions import transaction
from ai_hub.errors import BadInputError
from ai_hub.forecasting import anomalies, log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.api.schemas.anomalies import Point
    from ai_hub.api.services import Services
    from ai_hub.settings import Settings

router = APIRouter(prefix="/ai", tags=["anomalies"], dependencies=AUTHENTICATED)

_Id = Annotated[UUID, Path(examples=["5b0d6a4e-6c1f-4f57-9a46-6a1d7c0f3b21"])]
_JSON = "application/json"
#: Of the log, which forecast_band reads at once.
_LONGEST_SPAN: Final = timedelta(days=366)


@router.post(
    "/anomaly",
    response_model=Detection,
    responses=errors.responses(400, 401, 403, 404, 408, 413, 422, 429, 503)
    | {200: openapi_links("get_detection", detection_id="detection_id", tenant_id="tenant_id")},
)
async def detect_anomalies(caller: Caller, request: Request, body: AnomalyRequest) -> Response:
    """Find the anomalies of a series of an asset, and keep the answer."""
    permit(request, caller, Scope.FEATURES_READ, body.tenant_id, asset=body.asset_id, method=body.method)
    services = services_of(request)
    await services.assets.require(body.tenant_id, body.asset_id)
    series = _series("time_series", body.time_series)
    if body.method == anomalies.FORECAST_BAND:
        caller.require(Scope.FORECASTS_READ, body.tenant_id)
        bands = await services.analyses.read(partial(_bands, services.settings, body, series))
        found = anomalies.compare_with_forecasts(series, bands, body.sensitivity)
    else:
        found = await _compute(services, body, series)
    answer = _answer(body, series, found)
    await services.analyses.save(answer)
    request.scope["state"]["log_fields"]["detection_id"] = str(answer.analysis_id)
    return Response(answer.answer, media_type=_JSON)


@router.get(
    "/anomaly/{detection_id}",
    response_model=Detection,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_detection(
    caller: Caller, request: Request, detection_id: _Id, tenant_id: TenantQuery = None
) -> Response:
    """One detection of a tenant, as it was answered."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FEATURES_READ, tenant, detection_id=str(detection_id))
    answer = await services_of(request).analyses.find(tenant, "anomalies", detection_id)
    return Response(answer, media_type=_JSON)


@router.get(
    "/anomalies", response_model=DetectionList, responses=errors.responses(400, 401, 403, 422, 429, 503)
)
async def list_detections(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    asset_id: AssetQuery = None,
    method: Annotated[Method | None, Query(description="default: every method")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> DetectionList:
    """A tenant's detections, newest first, without the anomalies themselves."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FEATURES_READ, tenant)
    names = tuple(DetectionSummary.model_fields)
    found, total = await services_of(request).analyses.newest(
        tenant, "anomalies", names, subject=asset_id, method=method, limit=limit, offset=offset
    )
    summaries = [DetectionSummary.model_validate(dict(zip(names, row, strict=True))) for row in found]
    return DetectionList(detections=summaries, total=total, tenant_id=tenant)


async def _compute(services: Services, body: AnomalyRequest, series: anomalies.Series) -> anomalies.Detection:
    training = None if body.training_data is None else _series("training_data", body.training_data)
    return await services.computations.run(
        body.tenant_id,
        partial(
            anomalies.detect,
            series,
            training,
            body.method,
            sensitivity=body.sensitivity,
            lookback=timedelta(hours=body.lookback_hours),
        ),
    )


def _bands(settings: Settings, body: AnomalyRequest, series: anomalies.Series) -> anomalies.Floats:
    """Quantiles of the forecast of each point: of its step the newest live one. For a thread.

    Raises:
        BadInputError: points have no forecast with quantiles, or span more than a year.
    """
    if body.training_data is not None:
        raise BadInputError(
            "forecast_band compares with forecasts, not with training_data.", hint="Send time_series alone."
        )
    times = [time.replace(tzinfo=UTC) for time in series.times.tolist()]
    if times[-1] - times[0] > _LONGEST_SPAN:
        raise BadInputError(
            f"time_series spans more than {_LONGEST_SPAN.days} days, which forecast_band does not read.",
            hint="Send it in parts.",
        )
    with transaction(settings, body.tenant_id) as connection:
        rows = log.valid_at(
            connection,
            body.tenant_id,
            body.asset_id,
            datetime.now(UTC),
            start=times[0],
            end=times[-1] + timedelta(microseconds=1),
            in_own_unit=True,
        )
    bands = {row.target_time: (row.q10, row.q50, row.q90) for row in rows}
    missing = [time for time in times if None in bands.get(time, (None,))]
    if missing:
        raise BadInputError(
            f"{len(missing)} of {len(times)} points have no live forecast with quantiles in the asset's unit,"
            f" the first at {missing[0].isoformat()}.",
            hint="Send points at the starts of steps that were forecast; `ai-hub forecast show` has them.",
        )
    return np.array([bands[time] for time in times], np.float64)


def _answer(body: AnomalyRequest, series: anomalies.Series, found: anomalies.Detection) -> Analysis:
    indexes = np.flatnonzero(found.scores > body.sensitivity)
    now, detection_id = datetime.now(UTC), uuid4()
    document = {
        "detection_id": detection_id,
        "tenant_id": body.tenant_id,
        "asset_id": body.asset_id,
        "anomalies": [_anomaly(series, found, int(index)) for index in indexes],
        "summary": {
            "total_points": len(series.values),
            "anomalies_detected": len(indexes),
            "anomaly_rate": len(indexes) / len(series.values),
            "mean_anomaly_score": float(found.scores.mean()),
            "max_anomaly_score": float(found.scores.max()),
            "method_used": body.method,
            "sensitivity": body.sensitivity,
        },
        "generated_at": now,
    }
    return Analysis(
        detection_id, body.tenant_id, "anomalies", body.asset_id, body.method, _dumps(document), now
    )


def _series(name: str, points: Sequence[Point]) -> anomalies.Series:
    """Points in the order of their times.

    Raises:
        BadInputError: two have the same time.
    """
    # seconds have their microseconds, and an array of datetimes would take five times as long
    seconds = np.array([point.timestamp.timestamp() for point in points])
    times = np.rint(seconds * 1e6).astype("datetime64[us]")
    values = np.array([point.value for point in points], np.float64)
    order = np.argsort(times)
    times = times[order]
    equal = np.flatnonzero(times[1:] == times[:-1])
    if len(equal):
        raise BadInputError(
            f"{name} has the time {times[equal[0]].item().isoformat()}Z twice.",
            hint="Send one value for each time.",
        )
    return anomalies.Series(times, values[order])


def _anomaly(series: anomalies.Series, found: anomalies.Detection, index: int) -> dict[str, Any]:
    score = float(found.scores[index])
    return {
        "timestamp": series.times[index].item(),
        "value": float(series.values[index]),
        "anomaly_score": score,
        "is_anomaly": True,
        "expected_range": {
            "min": float(found.minimum[index]),
            "max": float(found.maximum[index]),
            "mean": float(found.mean[index]),
            "std": float(found.std[index]),
        },
        "severity": anomalies.severity(score),
        "explanation": found.explanation(index),
    }


def _dumps(document: dict[str, Any]) -> str:
    return orjson.dumps(document, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z).decode()

"""Forecasts of the models in production, and the log of them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.schemas.common import AssetId, Day
from ai_hub.api.schemas.forecasts import (
    AccuracyHour,
    Forecast,
    ForecastAccuracy,
    ForecastList,
    ForecastMetadata,
    ForecastPoint,
    ForecastRequest,
    ForecastScores,
    ForecastSummary,
    ForecastType,
    ModelFindingOf,
    ModelFindings,
    Quantiles,
    ScoresOf,
)
from ai_hub.api.services import (
    AUTHENTICATED,
    AssetQuery,
    Caller,
    Limit,
    ModelQuery,
    Offset,
    TenantQuery,
    openapi_links,
    own_tenant,
    permit,
    services_of,
)
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.forecasting import By, service
from ai_hub.forecasting.log import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.forecasting.accuracy import LiveScores
    from ai_hub.forecasting.log import Row, Run

router = APIRouter(prefix="/ai", tags=["forecasts"], dependencies=AUTHENTICATED)

_ForecastId = Annotated[UUID, Path(examples=["0193d4a1-7c00-7000-8000-0b8a6c1f2e90"])]
_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
#: Of the values between the 10 % and the 90 % quantile.
_CONFIDENCE: Final = 0.8


@router.post(
    "/forecast",
    response_model=Forecast,
    responses=errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
    | {200: openapi_links("get_forecast", forecast_id="forecast_id", tenant_id="tenant_id")},
)
async def create_forecast(body: ForecastRequest, request: Request, caller: Caller) -> Forecast:
    """Forecast an asset from now on with the model in production; the answer is found again by its id."""
    permit(request, caller, Scope.FORECASTS_WRITE, body.tenant_id)
    for name in ("historical_data", "features"):
        if getattr(body, name):
            raise ConflictError(
                f"{name} cannot be used: forecasts are made of the features of readings that were ingested.",
                hint="Ingest the readings (docs/ingest.md), and leave the field out.",
            )
    run, rows = await services_of(request).forecasts.issue(
        service.ForecastRequest(
            body.tenant_id,
            body.asset_id,
            body.horizon_hours * _HOUR,
            body.interval_minutes * _MINUTE,
            body.model_name,
            {"forecast_type": body.forecast_type.value, "include_quantiles": body.include_quantiles},
        )
    )
    request.scope["state"]["log_fields"]["forecast_id"] = str(run.run_id)
    return _forecast(run, body.asset_id, rows)


@router.get(
    "/forecast/{forecast_id}",
    response_model=Forecast,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_forecast(
    *,
    caller: Caller,
    request: Request,
    forecast_id: _ForecastId,
    tenant_id: TenantQuery = None,
    asset_id: Annotated[AssetId | None, Query(description="of a run of several assets: which one")] = None,
) -> Forecast:
    """A forecast as it was answered; also one that `ai-hub forecast run` has made, by the id of its run."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FORECASTS_READ, tenant, forecast_id=str(forecast_id))
    forecasts = services_of(request).forecasts
    run = await forecasts.find(tenant, forecast_id)
    asset = asset_of(run, asset_id)
    return _forecast(run, asset, await forecasts.rows(run, asset))


@router.get(
    "/forecasts", response_model=ForecastList, responses=errors.responses(400, 401, 403, 422, 429, 503)
)
async def list_forecasts(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    asset_id: AssetQuery = None,
    forecast_type: ForecastType | None = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> ForecastList:
    """A tenant's forecasts without their steps, newest first.

    Without `asset_id`, one of several assets at once has the name of its first.
    """
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FORECASTS_READ, tenant)
    details = None if forecast_type is None else {"forecast_type": forecast_type.value}
    runs, total = await services_of(request).forecasts.newest(tenant, asset_id, details, limit, offset)
    return ForecastList(
        forecasts=[ForecastSummary(**_summary(run, asset_id or run.assets[0])) for run in runs], total=total
    )


@router.get(
    "/forecasts/scores",
    response_model=ForecastScores,
    responses=errors.responses(400, 401, 403, 422, 429, 503),
)
async def get_scores(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    by: By = By.VERSION,
    role: Role = Role.LIVE,
    asset_id: AssetQuery = None,
    model_name: ModelQuery = None,
    start: Annotated[Day | None, Query(description="first day (UTC)")] = None,
    end: Annotated[Day | None, Query(description="days from here on are left out")] = None,
    settled: Annotated[bool, Query(description="only days whose readings are taken for complete")] = False,
) -> ForecastScores:
    """How good a tenant's forecasts were, by model and version, asset, day or lead."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FORECASTS_READ, tenant)
    if start is not None and end is not None and start >= end:
        raise BadInputError("The range is empty: start is not before end.", hint="end is not included.")
    found = await services_of(request).forecasts.scores(
        tenant, by, is_settled=settled, role=role, asset=asset_id, model=model_name, start=start, end=end
    )
    return ForecastScores(
        tenant_id=tenant,
        by=by,
        scores=_scores(found),
    )


@router.get(
    "/forecasts/findings",
    response_model=ModelFindings,
    responses=errors.responses(400, 401, 403, 422, 429, 503),
)
async def get_findings(
    *,
    caller: Caller,
    request: Request,
    tenant_id: TenantQuery = None,
    resolved: Annotated[bool, Query(description="those that are resolved, too")] = False,
    limit: Limit = 100,
) -> ModelFindings:
    """What `ai-hub check models` has found wrong with a tenant's models in production."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FORECASTS_READ, tenant)
    found = await services_of(request).forecasts.findings(tenant, only_open=not resolved, limit=limit)
    return ModelFindings(
        tenant_id=tenant,
        findings=[
            ModelFindingOf(
                finding_id=each.finding_id,
                model_name=each.model,
                version=each.version,
                kind=each.kind.value,
                since=each.since,
                detected_at=each.detected_at,
                resolved_at=each.resolved_at,
                **each.detail,
            )
            for each in found
        ],
    )


@router.get(
    "/forecasts/accuracy",
    response_model=ForecastAccuracy,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_accuracy(
    *,
    caller: Caller,
    request: Request,
    asset_id: Annotated[AssetId, Query(examples=["meter-008"])],
    tenant_id: TenantQuery = None,
    model_name: ModelQuery = None,
    days: Annotated[int, Query(ge=1, le=31, description="before now; what is ahead comes with them")] = 3,
    lead_hours: Annotated[
        int,
        Query(ge=0, le=168, description="of each hour the newest forecast that was issued so long before it"),
    ] = 0,
) -> ForecastAccuracy:
    """Live forecasts of an asset beside what was measured, by hour, and their errors by lead."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.FORECASTS_READ, tenant)
    now = datetime.now(UTC)
    start = now - timedelta(days=days)
    forecasts = services_of(request).forecasts
    found = await forecasts.accuracy(
        tenant, asset_id, start, now=now, lead=lead_hours * _HOUR, model=model_name
    )
    by_lead = await forecasts.scores(tenant, By.LEAD, asset=asset_id, model=model_name, start=start.date())
    return ForecastAccuracy(
        tenant_id=tenant,
        asset_id=asset_id,
        unit=found.unit,
        now=now,
        hours=[
            AccuracyHour(
                timestamp=each.hour,
                actual=each.actual,
                forecast=each.value,
                p10=each.q10,
                p90=each.q90,
                issued_at=each.issued_at,
                model_name=each.model,
                model_version=each.semantic_version,
            )
            for each in found.hours
        ],
        errors_by_lead=_scores(by_lead),
    )


def _scores(found: Sequence[LiveScores]) -> list[ScoresOf]:
    return [
        ScoresOf(model_name=each.model, **{k: v for k, v in asdict(each).items() if k != "model"})
        for each in found
    ]


def asset_of(run: Run, asset: str | None) -> str:
    """The asset of a forecast that is asked for; default: its only one.

    Raises:
        BadInputError: it has several.
        NotFoundError: it is not of that one.
    """
    if asset is None and len(run.assets) > 1:
        raise BadInputError(
            f"Forecast {run.run_id} is of {len(run.assets)} assets.",
            hint=f"Say which one, such as asset_id={run.assets[0]}.",
        )
    if asset is not None and asset not in run.assets:
        raise NotFoundError(
            f"Forecast {run.run_id} is not of {asset}.", hint="Leave asset_id out to see of which."
        )
    return asset or run.assets[0]


def _forecast(run: Run, asset: str, rows: Sequence[Row]) -> Forecast:
    with_quantiles = run.details.get("include_quantiles", True)
    return Forecast(
        **_summary(run, asset),
        forecasts=[_point(row, with_quantiles=with_quantiles) for row in rows],
        degraded=any(row.status != "ok" for row in rows),
    )


def _point(row: Row, *, with_quantiles: bool) -> ForecastPoint:
    has_interval = row.q10 is not None and row.q90 is not None
    return ForecastPoint(
        timestamp=row.target_time,
        point_forecast=row.value,
        quantiles=Quantiles(p10=row.q10, p50=row.q50, p90=row.q90)
        if with_quantiles and has_interval
        else None,
        confidence=_CONFIDENCE if has_interval else None,
        prediction_interval_lower=row.q10,
        prediction_interval_upper=row.q90,
    )


def _summary(run: Run, asset: str) -> dict[str, Any]:
    """Fields of `ForecastSummary`."""
    return {
        "forecast_id": run.run_id,
        "tenant_id": run.tenant,
        "asset_id": asset,
        "forecast_type": run.details.get("forecast_type", ForecastType.LOAD),
        "horizon_hours": run.horizon / _HOUR,
        "interval_minutes": run.step / _MINUTE,
        "metadata": ForecastMetadata(
            **run.details.get("metadata", {}),
            generated_at=run.known_at,
            model_name=run.model,
            model_version=run.semantic_version or (None if run.version is None else str(run.version)),
            issued_at=run.issued_at,
            unit=run.unit,
            role=run.role.value,
        ),
    }

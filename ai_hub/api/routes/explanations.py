"""What makes the predictions of a model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, HTTPException, Path, Request, Response

from ai_hub.access.principal import Scope
from ai_hub.api import errors
from ai_hub.api.analyses import Analysis
from ai_hub.api.explanations import (
    GLOBAL_METHOD,
    METHOD,
    explain_forecast,
    explained_step,
    explanation,
    global_explanation,
    sample_rows,
)
from ai_hub.api.routes.forecasts import asset_of
from ai_hub.api.schemas.explanations import (
    ExplainRequest,
    Explanation,
    GlobalExplainRequest,
    GlobalExplanation,
)
from ai_hub.api.services import (
    AUTHENTICATED,
    Caller,
    TenantQuery,
    openapi_links,
    own_tenant,
    permit,
    services_of,
)
from ai_hub.errors import BadInputError, ConflictError
from ai_hub.forecasting.log import check_files
from ai_hub.forecasting.models.loading import not_explained

if TYPE_CHECKING:
    from ai_hub.access.principal import Principal
    from ai_hub.api.registry_service import FetchedModel

router = APIRouter(prefix="/ai", tags=["explanations"], dependencies=AUTHENTICATED)

_Id = Annotated[UUID, Path(examples=["c3a1f0d2-8e57-4b1c-a2d4-5f6e7a8b9c01"])]
_JSON = "application/json"
#: Fields that tell which step of a forecast is meant.
_OF_FORECASTS = ("asset_id", "target_time", "quantile")
_ERRORS = errors.responses(400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
_LINKS: dict[int | str, dict[str, Any]] = {
    200: openapi_links("get_explanation", explanation_id="explanation_id", tenant_id="tenant_id")
}


@router.post("/explain", response_model=Explanation, responses=_ERRORS | _LINKS)
async def explain_prediction(caller: Caller, request: Request, body: ExplainRequest) -> Response:
    """Explain the prediction of a model for given features, or a step of a forecast, and keep the answer."""
    _permit(request, caller, body)
    if (body.prediction_id is None) == (body.input_features is None):
        raise BadInputError(
            "The request has prediction_id and input_features, which may be of two predictions."
            if body.prediction_id
            else "The request has no input_features, so there is no prediction to explain.",
            hint="Send the features of the prediction as input_features, or the id of a forecast as "
            "prediction_id.",
        )
    if body.prediction_id is not None:
        return await _explain_forecast(request, caller, body, body.prediction_id)
    if stray := [name for name in _OF_FORECASTS if getattr(body, name) is not None]:
        raise BadInputError(
            f"{' and '.join(stray)} tell which step of a forecast to explain.",
            hint="Send them with the prediction_id of a forecast alone.",
        )
    fetched = await _fetch(request, caller, body)
    if fetched.horizon_hours is not None:
        raise ConflictError(
            f"{body.model_name} forecasts ahead, and is explained by its forecasts alone.",
            hint="Send the forecast_id of POST /ai/forecast as prediction_id, without input_features.",
        )
    assert body.input_features is not None  # noqa: S101  # see above
    row = body.input_features
    columns, found = await services_of(request).computations.run(
        body.tenant_id, partial(fetched.loader.explain, fetched.version, row)
    )
    return await _keep(request, METHOD, explanation(fetched.found, columns, row, found))


@router.post("/explain/global", response_model=GlobalExplanation, responses=_ERRORS | _LINKS)
async def explain_model(caller: Caller, request: Request, body: GlobalExplainRequest) -> Response:
    """Explain a model by its predictions for rows of its feature service, and keep the answer."""
    _permit(request, caller, body)
    services = services_of(request)
    fetched = await _fetch(request, caller, body)
    if fetched.horizon_hours is not None:
        # before rows of it are read for seconds
        raise not_explained(f"{body.model_name} {fetched.found.semantic_version or fetched.found.version}")
    if fetched.feature_service is None:
        raise ConflictError(
            f"{body.model_name} does not say which feature service its features are from.",
            hint="Register it with training_config.feature_service, or explain single predictions.",
        )
    assets = fetched.assets or [
        each["asset_id"] for each in (await services.assets.page(body.tenant_id, None, None, 1000, 0))[0]
    ]
    if not assets:
        raise ConflictError(
            f"Tenant {body.tenant_id} has no assets.", hint="Bring readings in with `ai-hub ingest readings`."
        )
    rows = await services.analyses.read(
        partial(
            sample_rows,
            services.settings,
            body.tenant_id,
            fetched.feature_service,
            assets,
            body.dataset_sample_size,
        )
    )
    columns, found = await services.computations.run(
        body.tenant_id, partial(fetched.loader.contributions, fetched.version, rows)
    )
    return await _keep(request, GLOBAL_METHOD, global_explanation(fetched.found, columns, found))


@router.api_route("/explain/global", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def explain_by_another_method() -> None:
    """Answer 405: `global` is not the id of an explanation."""
    raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})


@router.get(
    "/explain/{explanation_id}",
    response_model=Explanation | GlobalExplanation,
    responses=errors.responses(400, 401, 403, 404, 422, 429, 503),
)
async def get_explanation(
    caller: Caller, request: Request, explanation_id: _Id, tenant_id: TenantQuery = None
) -> Response:
    """One explanation of a tenant, as it was answered."""
    tenant = own_tenant(caller, tenant_id)
    permit(request, caller, Scope.MODELS_READ, tenant, explanation_id=str(explanation_id))
    answer = await services_of(request).analyses.find(tenant, "explanation", explanation_id)
    return Response(answer, media_type=_JSON)


async def _explain_forecast(
    request: Request, caller: Principal, body: ExplainRequest, prediction_id: str
) -> Response:
    tenant, services = body.tenant_id, services_of(request)
    permit(request, caller, Scope.FORECASTS_READ, tenant, forecast_id=prediction_id)
    try:
        forecast_id = UUID(prediction_id)
    except ValueError:
        raise BadInputError(
            f"{prediction_id} is no id of a forecast.", hint="GET /ai/forecasts lists their ids."
        ) from None
    run = await services.forecasts.find(tenant, forecast_id)
    if run.model != body.model_name or run.version is None:
        raise BadInputError(
            f"Forecast {forecast_id} is one of {run.model}{'' if run.version else ', not registered'}.",
            hint="Name its model, a registered one.",
        )
    rows = await services.forecasts.rows(run, asset_of(run, body.asset_id))
    row = next((each for each in rows if body.target_time in {None, each.target_time}), None)
    if row is None:
        raise BadInputError(
            f"Forecast {forecast_id} has no step that starts at {body.target_time:%Y-%m-%dT%H:%M:%SZ}.",
            hint=f"GET /ai/forecast/{forecast_id} lists its steps.",
        )
    if row.value is None:
        raise ConflictError(
            f"Forecast {forecast_id} has no value at {row.target_time:%Y-%m-%dT%H:%MZ}: features were "
            "missing.",
            hint="Choose another target_time.",
        )
    named = body.model_version if "model_version" in body.model_fields_set else str(run.version)
    fetched = await services.models.run_as(caller, lambda registry: registry.fetch(tenant, run.model, named))
    if fetched.found.version != run.version:
        raise BadInputError(
            f"Forecast {forecast_id} is of version {run.semantic_version or run.version}, not {named}.",
            hint="Leave model_version out.",
        )
    check_files(run, fetched.found.manifest_sha256)
    features = await services.forecasts.features(run)
    found = await services.computations.run(
        tenant,
        partial(
            explain_forecast,
            services.settings,
            fetched.found,
            run,
            rows,
            features,
            target=row.target_time,
            quantile=None if body.quantile is None else int(body.quantile[1:]) / 100,
        ),
    )
    document = explanation(
        fetched.found,
        *found,
        base_name="what is usual,",
        forecast=explained_step(run, row, body.quantile),
    )
    return await _keep(request, METHOD, document)


def _permit(request: Request, caller: Principal, body: ExplainRequest | GlobalExplainRequest) -> None:
    model = f"{body.tenant_id}:{body.model_name}:{body.model_version}"
    permit(request, caller, Scope.MODELS_READ, body.tenant_id, model=model)


async def _fetch(
    request: Request, caller: Principal, body: ExplainRequest | GlobalExplainRequest
) -> FetchedModel:
    """The model's files, verified, in this machine's cache."""
    return await services_of(request).models.run_as(
        caller, lambda registry: registry.fetch(body.tenant_id, body.model_name, body.model_version)
    )


async def _keep(request: Request, method: str, document: dict[str, Any]) -> Response:
    answer = orjson.dumps(document, option=orjson.OPT_UTC_Z).decode()
    explanation_id = document["explanation_id"]
    created_at = document["generated_at"] if method == GLOBAL_METHOD else document["metadata"]["explained_at"]
    await services_of(request).analyses.save(
        Analysis(
            explanation_id,
            document["tenant_id"],
            "explanation",
            document["model_name"],
            method,
            answer,
            created_at,
        )
    )
    request.scope["state"]["log_fields"]["explanation_id"] = str(explanation_id)
    return Response(answer, media_type=_JSON)

"""`mlflow server --app-name ai-hub`: MLflow's own application, and the audit trail under `/ai-hub`.

Our routes are scoped to a workspace by the same header and middleware as MLflow's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse
from mlflow.exceptions import MlflowException
from mlflow.server.fastapi_app import add_fastapi_workspace_middleware, create_fastapi_app
from mlflow.server.fastapi_security import init_fastapi_security
from mlflow.server.handlers import _get_model_registry_store  # the one store of this process
from starlette.applications import Starlette
from starlette.routing import Mount

from mlflow_plugins import audit
from mlflow_plugins.errors import missing, unavailable
from mlflow_plugins.registry_store import LifecycleStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp

router = APIRouter(prefix="/api")


@router.get("/models/{name}/transitions")
def read_transitions(
    name: str,
    version: int | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """Changes of stage of a model, newest first."""
    return {"transitions": [audit.as_json(row) for row in _store().history(name, version, limit)]}


@router.get("/models/{name}/production")
def read_production(name: str, at_ms: int) -> dict[str, Any]:
    """The promotion that put into Production what was there at `at_ms` (UTC milliseconds)."""
    transition = _store().production_at(name, at_ms)
    if transition is None:
        raise missing(f"No version of {name} was in Production at that time.")
    return audit.as_json(transition)


def create_app() -> ASGIApp:
    """The ASGI application `mlflow server` runs."""
    mlflow_app = create_fastapi_app()
    ours = FastAPI(title="AI Hub model lifecycle", docs_url=None, redoc_url=None, openapi_url=None)
    init_fastapi_security(ours)
    add_fastapi_workspace_middleware(ours)
    ours.add_exception_handler(MlflowException, _mlflow_error)
    ours.include_router(router)
    return Starlette(
        routes=[Mount("/ai-hub", ours), Mount("/", mlflow_app)],
        lifespan=mlflow_app.router.lifespan_context,
    )


def _store() -> LifecycleStore:
    store = _get_model_registry_store()
    if not isinstance(store, LifecycleStore):
        raise unavailable(
            "Start the server with --registry-store-uri lifecycle+sqlite:///… or lifecycle+postgresql://…."
        )
    return store


def _mlflow_error(request: Request, error: Exception) -> JSONResponse:
    del request
    if not isinstance(error, MlflowException):
        raise error
    body = {"error_code": error.error_code, "message": error.message}
    return JSONResponse(body, status_code=error.get_http_status_code())

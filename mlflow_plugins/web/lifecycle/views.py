"""The pages, and the one form each model's page has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException

from mlflow_plugins.lifecycle import audit
from mlflow_plugins.web.lifecycle import model_page, moves, overview, plot, render
from mlflow_plugins.web.lifecycle.access import Asking
from mlflow_plugins.web.lifecycle.forms import LONGEST_REASON, Sent, Wish
from mlflow_plugins.web.store import registry_store

if TYPE_CHECKING:
    from mlflow_plugins.web.lifecycle.access import Visitor

PREFIX: Final = "/lifecycle"
TRAIL_PAGE: Final = 25

router = APIRouter(prefix=PREFIX, default_response_class=HTMLResponse)

_Name = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*\Z")]
_Id = Annotated[int | None, Query(ge=1, lt=2**63)]


@router.get("")
def show_tenants(request: Request, visitor: Asking) -> Response:
    """The tenants the visitor may see."""
    with registry_store().ManagedSessionMaker() as session:
        rows = overview.tenants(session, visitor.tenants())
    return render.page("tenants.html", **_common(request, visitor), tenants=rows)


@router.get("/{tenant}")
def show_models(request: Request, visitor: Asking, tenant: _Name) -> Response:
    """A tenant's models."""
    with visitor.inside(tenant), registry_store().ManagedSessionMaker() as session:
        rows = overview.models(session, tenant)
    return render.page("models.html", **_common(request, visitor), tenant=tenant, models=rows)


@router.get("/{tenant}/{name}")
def show_model(
    request: Request,
    visitor: Asking,
    tenant: _Name,
    name: _Name,
    metric: str | None = None,
    before: _Id = None,
    done: _Id = None,
) -> Response:
    """A model: production, candidates, a metric over the versions, and the audit trail."""
    with visitor.inside(tenant):
        return _model(request, visitor, tenant, name, metric=metric, before=before, done=done)


@router.post("/{tenant}/{name}")
def move(request: Request, visitor: Asking, tenant: _Name, name: _Name, wish: Sent) -> Response:
    """Promote, reject, restore or roll back; then shows what happened, or why it did not."""
    with visitor.inside(tenant):
        try:
            done = moves.carry_out(registry_store(), name, wish, visitor.rights(tenant))
        except MlflowException as error:
            status = error.get_http_status_code()
            return _model(request, visitor, tenant, name, wish=wish, refusal=str(error.message), status=status)
    return RedirectResponse(f"{_address(request, tenant, name)}?done={done.id}", 303)


@router.get("/{tenant}/{name}/plot.svg")
def show_plot(visitor: Asking, tenant: _Name, name: _Name, metric: str) -> Response:
    """A metric over the versions, as a picture."""
    with visitor.inside(tenant):
        found = model_page.assemble(registry_store(), tenant, name, metric)
    return Response(plot.draw(found.metric or metric, found.points), media_type="image/svg+xml")


def _model(
    request: Request,
    visitor: Visitor,
    tenant: str,
    name: str,
    *,
    metric: str | None = None,
    before: int | None = None,
    done: int | None = None,
    wish: Wish | None = None,
    refusal: str | None = None,
    status: int = 200,
) -> Response:
    store = registry_store()
    found = model_page.assemble(store, tenant, name, metric)
    with store.ManagedSessionMaker() as session:
        trail = audit.history(session, tenant, name, before=before, limit=TRAIL_PAGE + 1)
        happened = audit.same_move(session, tenant, name, done) if done else []
    return render.page(
        "model.html",
        status,
        **_common(request, visitor),
        tenant=tenant,
        model=found,
        rights=visitor.rights(tenant),
        trail=trail[:TRAIL_PAGE],
        older=trail[TRAIL_PAGE - 1].id if len(trail) > TRAIL_PAGE else None,
        newer=before is not None,
        happened=happened,
        wish=wish,
        refusal=refusal,
        longest_reason=LONGEST_REASON,
        plot_description=plot.describe(found.metric, found.points) if found.metric else None,
    )


def _common(request: Request, visitor: Visitor) -> dict[str, Any]:
    root = request.scope.get("root_path", "")

    def mlflow(fragment: str, tenant: str) -> str:
        query = "?" + urlencode({"workspace": tenant}) if MLFLOW_ENABLE_WORKSPACES.get() else ""
        return f"{root}/#/{fragment}{query}"

    return {
        "visitor": visitor,
        "page": lambda *parts: _address(request, *parts),
        "stylesheet": f"{root}{PREFIX}/style.css",
        "mlflow_home": f"{root}/",
        "mlflow_version": lambda tenant, name, version: mlflow(
            f"models/{quote(name, safe='')}/versions/{version}", tenant
        ),
        "mlflow_run": lambda tenant, run: mlflow(f"runs/{quote(run, safe='')}", tenant),
    }


def _address(request: Request, *parts: str) -> str:
    root = request.scope.get("root_path", "")
    return "/".join((f"{root}{PREFIX}", *(quote(part, safe="") for part in parts)))

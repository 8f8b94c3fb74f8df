"""The pages, and the one form each model's page has."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, Field

from mlflow_plugins.errors import is_missing, missing
from mlflow_plugins.lifecycle import audit, removals
from mlflow_plugins.lifecycle.stages import LONGEST_REASON
from mlflow_plugins.people import permissions
from mlflow_plugins.people.actor import authenticated_user
from mlflow_plugins.store.current import registry_store
from mlflow_plugins.web.lifecycle import access, assessments, model_page, moves, overview, plot, render
from mlflow_plugins.web.lifecycle.forms import Sent, Wish  # noqa: TC001 - FastAPI reads them

PREFIX: Final = "/lifecycle"
TRAIL_PAGE: Final = 25

router = APIRouter(prefix=PREFIX, default_response_class=HTMLResponse)

_Name = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*$")]
_Id = Annotated[int | None, Field(ge=1, lt=2**63)]


class Look(BaseModel):
    """What a visitor wants to see of a model's page."""

    #: which metric to plot
    metric: str | None = None
    #: a page of the audit trail: entries older than this one
    before: _Id = None
    #: a page of the candidates: versions older than this one
    staged_before: _Id = None
    #: a page of the versions and their metric: versions older than this one
    versions_before: _Id = None
    #: the transition that a form has just brought about
    done: _Id = None
    #: a candidate the gates are to be asked about, whatever the size of its files
    gates: _Id = None


@router.get("")
def show_tenants(request: Request) -> Response:
    """The tenants the visitor may see."""
    with registry_store().ManagedSessionMaker() as session:
        rows = overview.tenants(session, access.tenants())
        removed = removals.last_of_all(session) if permissions.is_admin() else []
    return render.page("tenants.html", **_common(request), tenants=rows, removed=removed)


@router.get("/{tenant}")
def show_models(request: Request, tenant: _Name) -> Response:
    """A tenant's models."""
    with access.inside(tenant), registry_store().ManagedSessionMaker() as session:
        rows = overview.models(session, tenant)
        deleted = overview.deleted_models(session, tenant)
        names = [*(row.name for row in rows), *(row.name for row in deleted)]
        readable = set(permissions.readable(names))
    return render.page(
        "models.html",
        **_common(request),
        tenant=tenant,
        models=[row for row in rows if row.name in readable],
        deleted=[row for row in deleted if row.name in readable],
    )


@router.get("/{tenant}/{name}")
def show_model(request: Request, tenant: _Name, name: _Name, look: Annotated[Look, Query()]) -> Response:
    """A model: production, candidates, a metric over the versions, and the audit trail.

    Of a deleted one the trail is left.
    """
    with access.inside(tenant):
        return _model(request, tenant, name, look)


@router.post("/{tenant}/{name}")
def move(request: Request, tenant: _Name, name: _Name, wish: Sent) -> Response:
    """Promote, reject, restore or roll back; then shows what happened, or why it did not."""
    with access.inside(tenant):
        try:
            done = moves.carry_out(registry_store(), name, wish)
        except MlflowException as error:
            status = error.get_http_status_code()
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            look = Look(staged_before=wish.page or None)
            return _model(request, tenant, name, look, wish=wish, refusal=str(error.message), status=status)
    return RedirectResponse(f"{_address(request, tenant, name)}?done={done.id}", 303)


@router.get("/{tenant}/{name}/plot.svg")
def show_plot(tenant: _Name, name: _Name, metric: str, versions_before: _Id = None) -> Response:
    """A metric over the versions, as a picture."""
    with access.inside(tenant):
        permissions.require("read", name)
        found = model_page.assemble(registry_store(), tenant, name, metric, before=versions_before)
    if found.metric != metric:
        raise missing(f"No version of {name} has a metric {metric}.")
    return Response(plot.draw(metric, found.points), media_type="image/svg+xml")


def _model(
    request: Request,
    tenant: str,
    name: str,
    look: Look,
    *,
    wish: Wish | None = None,
    refusal: str | None = None,
    status: int = 200,
) -> Response:
    permissions.require("read", name)
    store = registry_store()
    with store.ManagedSessionMaker() as session:
        trail = audit.history(session, tenant, name, before=look.before, limit=TRAIL_PAGE + 1)
        happened = audit.same_move(session, tenant, name, look.done) if look.done else []
    shown = {
        **_common(request),
        "tenant": tenant,
        "name": name,
        "trail": trail[:TRAIL_PAGE],
        "older": trail[TRAIL_PAGE - 1].id if len(trail) > TRAIL_PAGE else None,
        "newer": look.before is not None,
    }
    try:
        found = model_page.assemble(
            store,
            tenant,
            name,
            look.metric,
            staged_before=look.staged_before,
            before=look.versions_before,
        )
    except MlflowException as error:
        if not trail or wish is not None or not is_missing(error):
            raise
        return render.page("deleted.html", **shown)
    return render.page(
        "model.html",
        status,
        **shown,
        model=found,
        rights=access.rights(tenant, name),
        assessments=assessments.ask(store, found, look.gates),
        look=look,
        happened=happened,
        wish=wish,
        refusal=refusal,
        longest_reason=LONGEST_REASON,
        plot_description=plot.describe(found.metric, found.points) if found.metric else None,
    )


def _common(request: Request) -> dict[str, Any]:
    root = request.scope.get("root_path", "")

    def mlflow(fragment: str, tenant: str) -> str:
        query = "?" + urlencode({"workspace": tenant}) if MLFLOW_ENABLE_WORKSPACES.get() else ""
        return f"{root}/#/{fragment}{query}"

    return {
        "user": authenticated_user(),
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

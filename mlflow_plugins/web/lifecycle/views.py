"""The pages, and the one form each model's page has."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, Field

from mlflow_plugins.errors import bad_input, is_missing, missing
from mlflow_plugins.lifecycle import audit, discussions
from mlflow_plugins.lifecycle.discussions import Comment, Discussions
from mlflow_plugins.lifecycle.rules import LARGEST_VERSION
from mlflow_plugins.lifecycle.stages import LONGEST_REASON
from mlflow_plugins.registration.model_metadata import logged_model
from mlflow_plugins.store import tenants
from mlflow_plugins.store.lifecycle_store import registry_store
from mlflow_plugins.users import permissions
from mlflow_plugins.users.permissions import authenticated_user
from mlflow_plugins.web.lifecycle import card, metrics, model_page, overview, render, visitor
from mlflow_plugins.web.lifecycle.visitor import Form, SubmittedForm  # noqa: TC001 - FastAPI reads them

if TYPE_CHECKING:
    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

PREFIX: Final = "/lifecycle"
TRAIL_PAGE: Final = 25

router = APIRouter(prefix=PREFIX, default_response_class=HTMLResponse)

_Name = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*$")]
_Version = Annotated[int, Path(ge=1, le=LARGEST_VERSION)]
_Query = Annotated[int, Query(ge=1, le=LARGEST_VERSION)]
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
        rows = overview.tenants(session, visitor.tenants())
        removed = tenants.last_removals(session) if permissions.is_admin() else []
    return render.page("tenants.html", **_common(request), tenants=rows, removed=removed)


@router.get("/{tenant}")
def show_models(request: Request, tenant: _Name) -> Response:
    """A tenant's models."""
    with visitor.inside(tenant), registry_store().ManagedSessionMaker() as session:
        rows = overview.models(session, tenant)
        deleted = overview.deleted_models(session, tenant)
        waiting = Discussions(registry_store()).open_requests()
        names = [*(row.name for row in rows), *(row.name for row in deleted)]
        readable = set(permissions.readable(names))
    return render.page(
        "models.html",
        **_common(request),
        tenant=tenant,
        models=[row for row in rows if row.name in readable],
        deleted=[row for row in deleted if row.name in readable],
        requests=waiting,
    )


@router.get("/{tenant}/{name}")
def show_model(request: Request, tenant: _Name, name: _Name, look: Annotated[Look, Query()]) -> Response:
    """A model: production, candidates, a metric over the versions, and the audit trail.

    Of a deleted one the trail is left.
    """
    with visitor.inside(tenant):
        return _model(request, tenant, name, look)


@router.post("/{tenant}/{name}")
def move(request: Request, tenant: _Name, name: _Name, form: SubmittedForm) -> Response:
    """Promote, reject, restore or roll back; then shows what happened, or why it did not."""
    with visitor.inside(tenant):
        try:
            done = visitor.carry_out(registry_store(), name, form)
        except MlflowException as error:
            status = error.get_http_status_code()
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            look = Look(staged_before=form.page or None)
            return _model(request, tenant, name, look, form=form, refusal=str(error.message), status=status)
    return RedirectResponse(f"{_address(request, tenant, name)}?done={done.id}", 303)


@router.get("/{tenant}/{name}/plot.svg")
def show_plot(tenant: _Name, name: _Name, metric: str, versions_before: _Id = None) -> Response:
    """A metric over the versions, as a picture."""
    with visitor.inside(tenant):
        permissions.require("read", name)
        found = model_page.assemble(registry_store(), tenant, name, metric, before=versions_before)
    if found.metric != metric:
        raise missing(f"No version of {name} has a metric {metric}.")
    return Response(metrics.draw_plot(metric, found.points), media_type="image/svg+xml")


@router.get("/{tenant}/{name}/versions/{version}")
def show_version(request: Request, tenant: _Name, name: _Name, version: _Version) -> Response:
    """A version's card, its thread, and what may be asked for."""
    with visitor.inside(tenant):
        return _show_version(request, tenant, name, version)


@router.get("/{tenant}/{name}/versions/{version}/images/{origin}")
def show_image(tenant: _Name, name: _Name, version: _Version, origin: str, path: str) -> Response:
    """An image that was logged to a version's run or logged model."""
    with visitor.inside(tenant):
        permissions.require("read", name)
        store = registry_store()
        with store.sessions() as session:
            row = store.version_row(session, name, version)
            run_id, model_id = row.run_id, logged_model(row.source)
        content = card.read_image(tenant, run_id, model_id, origin, path)
    return Response(content, media_type="image/png")


@router.post("/{tenant}/{name}/versions/{version}")
def say(request: Request, tenant: _Name, name: _Name, version: _Version, form: SubmittedForm) -> Response:
    """Comment, request the version's promotion, or end the request."""
    with visitor.inside(tenant):
        discussions = Discussions(registry_store())
        ways = {
            "comment": discussions.comment,
            "request": discussions.request,
            "withdraw": discussions.withdraw,
        }
        try:
            if form.action not in ways:
                raise bad_input(f"Choose one of {', '.join(ways)}.")
            ways[form.action](name, version, form.reason, claim=form.checked_claim())
        except MlflowException as error:
            status = error.get_http_status_code()
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            refusal = str(error.message)
            return _show_version(request, tenant, name, version, form=form, refusal=refusal, status=status)
    return RedirectResponse(f"{_address(request, tenant, name, 'versions', str(version))}#thread", 303)


@router.get("/{tenant}/{name}/compare")
def compare(request: Request, tenant: _Name, name: _Name, left: _Query, right: _Query) -> Response:
    """How two versions differ."""
    with visitor.inside(tenant):
        permissions.require("read", name)
        store = registry_store()
        difference = card.Difference(*(card.read(store, tenant, name, number) for number in (left, right)))
    return render.page("compare.html", **_common(request), tenant=tenant, name=name, difference=difference)


def _show_version(
    request: Request,
    tenant: str,
    name: str,
    version: int,
    *,
    form: Form | None = None,
    refusal: str | None = None,
    status: int = 200,
) -> Response:
    permissions.require("read", name)
    store = registry_store()
    found = card.read(store, tenant, name, version)
    others = [other for other in _versions(store, tenant, name) if other.version != version]
    return render.page(
        "version.html",
        status,
        **_common(request),
        tenant=tenant,
        name=name,
        card=found,
        gallery=card.find_images(tenant, found.run_id, found.model_id),
        others=others,
        rights=visitor.rights(tenant, name),
        thread=Discussions(store).thread(name, version),
        request=next((asked for asked in _requests(store, name) if asked.version == version), None),
        form=form,
        refusal=refusal,
        longest=discussions.LONGEST,
    )


def _requests(store: LifecycleStore, name: str) -> list[Comment]:
    return [asked for asked in Discussions(store).open_requests() if asked.name == name]


def _versions(store: LifecycleStore, tenant: str, name: str) -> list[overview.VersionName]:
    with store.sessions() as session:
        return overview.versions(session, tenant, name)


def _place(entry: Transition | Comment) -> tuple[int, int]:
    """Where an entry of the trail belongs: a comment after the transition that came before it."""
    return (entry.last_transition, entry.id) if isinstance(entry, Comment) else (entry.id, 0)


def _model(
    request: Request,
    tenant: str,
    name: str,
    look: Look,
    *,
    form: Form | None = None,
    refusal: str | None = None,
    status: int = 200,
) -> Response:
    permissions.require("read", name)
    store = registry_store()
    with store.ManagedSessionMaker() as session:
        trail = audit.history(session, tenant, name, before=look.before, limit=TRAIL_PAGE + 1)
        older = trail[TRAIL_PAGE - 1].id if len(trail) > TRAIL_PAGE else None
        asked = discussions.between(session, tenant, name, look.before, older or 0)
        happened = audit.same_move(session, tenant, name, look.done) if look.done else []
    entries: list[Transition | Comment] = [*asked, *trail[:TRAIL_PAGE]]
    shown = {
        **_common(request),
        "tenant": tenant,
        "name": name,
        "trail": sorted(entries, key=_place, reverse=True),
        "older": older,
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
        if not trail or form is not None or not is_missing(error):
            raise
        return render.page("deleted.html", **shown)
    return render.page(
        "model.html",
        status,
        **shown,
        model=found,
        rights=visitor.rights(tenant, name),
        assessments=model_page.assess_candidates(store, found, look.gates),
        look=look,
        requests={request.version: request for request in _requests(store, name)},
        happened=happened,
        form=form,
        refusal=refusal,
        longest_reason=LONGEST_REASON,
        plot_description=metrics.describe_plot(found.metric, found.points) if found.metric else None,
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

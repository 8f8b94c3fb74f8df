"""Our routes beside MLflow's, under `/ai-hub/api`: the audit trail, promotion, rollback, forced deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.server.mlflow_response import mlflow_exception_response
from mlflow.server.workspace_helpers import _get_workspace_store  # the one of this process
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from pydantic import BaseModel, Field

from mlflow_plugins.errors import missing
from mlflow_plugins.lifecycle import audit, stages
from mlflow_plugins.lifecycle.discussions import Discussions
from mlflow_plugins.lifecycle.rules import LARGEST_VERSION
from mlflow_plugins.notifications import outbox
from mlflow_plugins.registration.imports import ExportedVersion
from mlflow_plugins.store.lifecycle_store import registry_store
from mlflow_plugins.store.tenants import Tenants
from mlflow_plugins.users import header, permissions

if TYPE_CHECKING:
    from fastapi.params import Depends as Dependency

router = APIRouter(prefix="/api/models/{name}")
requests_router = APIRouter(prefix="/api/requests")
notifications_router = APIRouter(
    prefix="/api/notifications", dependencies=[Depends(permissions.require_admin)]
)
tenants_router = APIRouter(prefix="/api/tenants", dependencies=[Depends(permissions.require_admin)])


def _claim(header: Annotated[str | None, Header(alias=header.HEADER)] = None) -> str | None:
    return permissions.user_of_header(header)


_Number = Annotated[int, Path(ge=0, le=LARGEST_VERSION)]
Claim = Annotated[str | None, Depends(_claim)]


def _may(action: permissions.Action) -> Dependency:
    def check(name: str) -> None:
        permissions.require(action, name)

    return Depends(check)


class StageChange(BaseModel):
    """Move a version."""

    stage: str
    reason: str | None = Field(None, max_length=stages.LONGEST_REASON)
    #: refuse when it is in another stage by now; not asked of a promotion, which the rules bind to Staging
    expected: str | None = None


class Release(BaseModel):
    """Let the name of a removed tenant be used again."""

    reason: str | None = Field(None, max_length=stages.LONGEST_REASON)


class Text(BaseModel):
    """What somebody says about a version."""

    text: str


class Rollback(BaseModel):
    """Put an earlier version back into Production."""

    version: int | None = None
    reason: str | None = Field(None, max_length=stages.LONGEST_REASON)


class Import(BaseModel):
    """Register what another registry or tenant has exported."""

    #: has the files in its folder `model`
    run_id: str
    exported: ExportedVersion
    #: None: the next one
    semantic_version: str | None
    reason: str | None = Field(None, max_length=stages.LONGEST_REASON // 2)


@router.get("/transitions", dependencies=[_may("read")])
def read_transitions(
    name: str,
    version: Annotated[int | None, Query(ge=0, le=LARGEST_VERSION)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """Changes of stage of a model, newest first."""
    return _transitions(registry_store().history(name, version, limit))


@router.get("/production", dependencies=[_may("read")])
def read_production(name: str, at_ms: Annotated[int, Query(ge=0, lt=2**63)]) -> dict[str, Any]:
    """The promotion that put into Production what was there at `at_ms` (UTC milliseconds)."""
    transition = registry_store().production_at(name, at_ms)
    if transition is None:
        raise missing(f"No version of {name} was in Production at that time.")
    return audit.as_json(transition)


@router.post("/imports", dependencies=[_may("update")])
def import_version(name: str, body: Import, claim: Claim = None) -> dict[str, Any]:
    """Register an exported version, whose files are in a run already."""
    created = registry_store().import_version(
        name,
        body.run_id,
        body.exported,
        semantic_version=body.semantic_version,
        reason=body.reason,
        claim=claim,
    )
    return {"version": int(created.version)}


@router.post("/versions/{version}/stage", dependencies=[_may("update")])
def change_stage(name: str, version: int, change: StageChange, claim: Claim = None) -> dict[str, Any]:
    """Move a version; answers with its transition, then those of the versions it displaced."""
    stage = get_canonical_stage(change.stage)
    moved = registry_store().move_version(
        name, version, stage, reason=change.reason, claim=claim, expected=change.expected
    )
    return _transitions(moved)


@router.get("/versions/{version}/gates", dependencies=[_may("read")])
def read_gates(name: str, version: int, reason: str | None = None, claim: Claim = None) -> dict[str, Any]:
    """What promoting a version now, with this reason, would meet."""
    return registry_store().gates(name, version, reason=reason, claim=claim).as_json()


@router.get("/versions/{version}/comments", dependencies=[_may("read")])
def read_comments(name: str, version: _Number) -> dict[str, Any]:
    """Comments on a version and requests for its promotion, oldest first."""
    said = Discussions(registry_store()).thread(name, version)
    return {"comments": [comment.as_json() for comment in said]}


@router.post("/versions/{version}/comments")
def add_comment(name: str, version: _Number, said: Text, claim: Claim = None) -> dict[str, Any]:
    """Add to a version's thread."""
    return Discussions(registry_store()).comment(name, version, said.text, claim=claim).as_json()


@router.post("/versions/{version}/request")
def request_promotion(name: str, version: _Number, said: Text, claim: Claim = None) -> dict[str, Any]:
    """Ask the tenant's approvers to promote a version."""
    return Discussions(registry_store()).request(name, version, said.text, claim=claim).as_json()


@router.post("/versions/{version}/retraining")
def propose_retraining(name: str, version: _Number, said: Text, claim: Claim = None) -> dict[str, Any]:
    """Say why a version's model should be trained anew."""
    return Discussions(registry_store()).propose_retraining(name, version, said.text, claim=claim).as_json()


@router.delete("/versions/{version}/request")
def withdraw_request(name: str, version: _Number, text: str, claim: Claim = None) -> dict[str, Any]:
    """Take back a request for promotion, or decline it."""
    return Discussions(registry_store()).withdraw(name, version, text, claim=claim).as_json()


@requests_router.get("")
def read_requests() -> dict[str, Any]:
    """The requests that wait for the tenant's approvers, oldest first."""
    waiting = Discussions(registry_store()).open_requests()
    return {"requests": [comment.as_json() for comment in waiting]}


@router.post("/rollback", dependencies=[_may("update")])
def roll_back(name: str, body: Rollback, claim: Claim = None) -> dict[str, Any]:
    """Put the version that was in Production before (or the one named) back."""
    return _transitions(registry_store().roll_back(name, body.version, reason=body.reason, claim=claim))


@router.delete("/versions/{version}", dependencies=[_may("delete")])
def delete_version(
    name: str, version: int, force: bool = False, reason: str | None = None, claim: Claim = None
) -> dict[str, Any]:
    """Delete an archived version (`force`: one in any stage) and its files."""
    deleted = registry_store().remove_version(name, version, force=force, reason=reason, claim=claim)
    return {"files_deleted": deleted}


@tenants_router.get("")
def read_removals() -> dict[str, Any]:
    """Removed tenants with the last step of each one's removal."""
    return {"removals": [row.as_json() for row in Tenants(registry_store()).removals()]}


@tenants_router.get("/{tenant}")
def read_tenant(tenant: str) -> dict[str, Any]:
    """What removing a tenant would take from MLflow's server, and how far its removal is."""
    WorkspaceNameValidator.validate(tenant)
    tenants, workspaces = Tenants(registry_store()), _get_workspace_store()
    contents, removal = tenants.contents(tenant), tenants.removal(tenant)
    return {
        "tenant": tenant,
        "exists": workspaces.exists(tenant),
        "counts": contents.counts,
        "tables": workspaces.contents(tenant),
        "in_production": contents.in_production,
        "removal": removal.as_json() if removal else None,
    }


@tenants_router.post("/{tenant}/release")
def release_tenant(tenant: str, body: Release, claim: Claim = None) -> dict[str, Any]:
    """Let the name of a removed tenant be used again, once nothing else has anything of it either."""
    cause = stages.Cause.of_request({}, reason=body.reason, claim=claim)
    return Tenants(registry_store()).release(tenant, cause).as_json()


@notifications_router.get("")
def read_notifications() -> dict[str, Any]:
    """Who is told what, and what has not arrived."""
    with registry_store().sessions() as session:
        return {"receivers": outbox.overview(session)}


@notifications_router.post("/test")
def send_test_notifications(claim: Claim = None) -> dict[str, Any]:
    """Send every receiver a message that says nothing."""
    with registry_store().transaction() as session:
        outbox.add_test(session, permissions.current_actor(claim))
    return read_notifications()


def create_api() -> FastAPI:
    """The application of these routes; errors have MLflow's shape."""
    app = FastAPI(title="AI Hub model lifecycle", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(MlflowException, _mlflow_error)
    app.include_router(router)
    app.include_router(requests_router)
    app.include_router(tenants_router)
    app.include_router(notifications_router)
    return app


def _transitions(rows: list[audit.Transition]) -> dict[str, Any]:
    return {"transitions": [audit.as_json(row) for row in rows]}


def _mlflow_error(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, MlflowException):
        raise error
    return mlflow_exception_response(error, handler_name=__name__)

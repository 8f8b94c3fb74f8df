"""What MLflow's login leaves to every member of a tenant, and our roles do not.

To MLflow whoever may read a registered version through the artifact proxy is a member of the workspace, and
members create things in it, list the users of the whole server and may share what they created with users of
other workspaces. A viewer changes nothing, and only the administrator opens a tenant to somebody.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mlflow.exceptions import MlflowException
from mlflow.protos.model_registry_pb2 import CreateRegisteredModel
from mlflow.protos.service_pb2 import (
    CreateExperiment,
    CreateGatewayEndpoint,
    CreateGatewayModelDefinition,
    CreateGatewaySecret,
)
from mlflow.server import auth
from mlflow.server.auth import routes
from mlflow.server.handlers import get_endpoints
from mlflow.server.mcp_server_api import get_mcp_server_api_route_prefixes
from mlflow.server.mlflow_response import mlflow_exception_response
from mlflow.server.workspace_helpers import WORKSPACE_HEADER_NAME, resolve_workspace_for_request_if_enabled
from mlflow.utils.workspace_context import ServerWorkspaceContext
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from mlflow_plugins.users import permissions
from mlflow_plugins.web.login import Login, Member, named_tenant

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Instead of a type of resource: for nobody but the administrator.
ADMIN: Final = "admin"

_CREATIONS: Final = {
    CreateExperiment: permissions.EXPERIMENT,
    CreateRegisteredModel: permissions.MODEL,
    CreateGatewaySecret: ADMIN,
    CreateGatewayEndpoint: ADMIN,
    CreateGatewayModelDefinition: ADMIN,
}
_OTHERS: Final = {
    ("POST", routes.DEMO_GENERATE): permissions.EXPERIMENT,
    ("GET", routes.LIST_USERS): ADMIN,
    ("GET", routes.AJAX_LIST_USERS): ADMIN,
    ("POST", routes.GRANT_USER_PERMISSION): ADMIN,
    ("POST", routes.AJAX_GRANT_USER_PERMISSION): ADMIN,
    ("POST", routes.REVOKE_USER_PERMISSION): ADMIN,
    ("POST", routes.AJAX_REVOKE_USER_PERMISSION): ADMIN,
    **dict.fromkeys((("POST", prefix) for prefix in get_mcp_server_api_route_prefixes()), ADMIN),
}
#: Its tools run on the server's machine, as the server.
_ASSISTANT: Final = "/mlflow/assistant/"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Reserved:
    """Middleware for MLflow's application: asks for more where it asks for too little."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._checked = Login(Member(_Checked(app)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check what is reserved, and who names a tenant; MLflow checks everything as ever."""
        await (self._checked if _concerned(scope) else self._app)(scope, receive, send)


def reserved_for(method: str, path: str) -> str | None:
    """`ADMIN`, or the type of which one must be able to change every resource of the tenant."""
    if _ASSISTANT in path and method not in _READS:
        return ADMIN
    return _routes().get((method, path.rstrip("/")))


def _concerned(scope: Scope) -> bool:
    if scope["type"] != "http" or auth.is_unprotected_route(scope["path"]):
        return False
    return named_tenant(scope) is not None or reserved_for(scope["method"], scope["path"]) is not None


@lru_cache(maxsize=1)
def _routes() -> dict[tuple[str, str], str]:
    creations = {
        (method, path): kind
        for path, kind, methods in get_endpoints(_CREATIONS.get)
        for method in methods
        if isinstance(kind, str)  # other routes come with their own function
    }
    return {**creations, **_OTHERS}


class _Checked:
    """Passes on what the logged-in user may do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_in_threadpool(_check, Request(scope))
        except MlflowException as error:
            await mlflow_exception_response(error, handler_name=__name__)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _check(request: Request) -> None:
    path = request.scope["path"]
    kind = reserved_for(request.method, path)
    if kind is None:
        return
    if kind == ADMIN:
        permissions.require_admin()
        return
    workspace = resolve_workspace_for_request_if_enabled(path, request.headers.get(WORKSPACE_HEADER_NAME))
    with ServerWorkspaceContext(workspace.name if workspace else None):
        permissions.require_creator(kind)

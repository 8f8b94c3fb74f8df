"""Login and rights of requests, with MLflow's functions, where MLflow asks for none or for too little.

MLflow authenticates its own routes itself; `Login` and `Member` do the same for applications mounted beside
it.

To MLflow whoever may read a registered version through the artifact proxy is a member of the workspace, and
members create things in it, list the users of the whole server and may share what they created with users of
other workspaces. With our roles a viewer changes nothing, and only the administrator opens a tenant to
somebody: `Reserved` sees to that.

MLflow's refusals are the bare text `Permission denied`; its pages look for JSON and, finding none, report an
internal error. `ReadableRefusal` answers with an error they know how to show.
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

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
from mlflow.server.auth.config import DEFAULT_AUTHORIZATION_FUNCTION
from mlflow.server.handlers import get_endpoints
from mlflow.server.mcp_server_api import get_mcp_server_api_route_prefixes
from mlflow.server.mlflow_response import mlflow_exception_response
from mlflow.server.workspace_helpers import WORKSPACE_HEADER_NAME, resolve_workspace_for_request_if_enabled
from mlflow.utils.workspace_context import ServerWorkspaceContext
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mlflow_plugins.errors import forbidden
from mlflow_plugins.users import permissions
from mlflow_plugins.users.header import HEADER
from mlflow_plugins.users.permissions import logged_in

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="mlflow"'}
_NOT_LOGGED_IN: Final = (
    "You are not logged in. Browsers ask for your name and password; for programs set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
)


class Login:
    """Middleware: nobody passes who is not logged in; whoever is, is the actor of what follows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass on in the user's name."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # comparing password hashes takes long on purpose
        outcome = await run_in_threadpool(_authenticate, Request(scope))
        if isinstance(outcome, Response):
            await outcome(scope, receive, send)
            return
        with logged_in(outcome, Headers(scope=scope).get(HEADER)):
            await self._app(scope, receive, send)


class Member:
    """Middleware behind `Login`: nobody names a tenant they have no role in, or learns that there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass on."""
        tenant = named_tenant(scope)
        if tenant is None or await run_in_threadpool(permissions.is_member, tenant):
            await self._app(scope, receive, send)
            return
        refusal = forbidden(f"You have no role in tenant {tenant}, or there is none by that name.")
        await mlflow_exception_response(refusal, handler_name=__name__)(scope, receive, send)


def named_tenant(scope: Scope) -> str | None:
    """The workspace a request names; None for none, and for the one every server has."""
    if scope["type"] != "http":
        return None
    name = (Headers(scope=scope).get(WORKSPACE_HEADER_NAME) or "").strip()
    return name if name not in {"", DEFAULT_WORKSPACE_NAME} else None


def _authenticate(request: Request) -> str | Response:
    """The user's name, or the answer for somebody without one (see `add_fastapi_permission_middleware`)."""
    try:
        user = _user_of(request)
    except MlflowException as error:
        return mlflow_exception_response(error, handler_name=__name__)
    if isinstance(user, Response):
        return user
    if user is None:
        return PlainTextResponse(_NOT_LOGGED_IN, 401, headers=_CHALLENGE)
    return str(user.username)


def _user_of(request: Request) -> Any:
    if auth.auth_config.authorization_function != DEFAULT_AUTHORIZATION_FUNCTION:
        return auth._authenticate_custom_for_fastapi(request)  # noqa: SLF001 - what MLflow's own routes call
    return auth._authenticate_fastapi_request(request)  # noqa: SLF001 - same


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


_BARE: Final = b"Permission denied"
_READABLE_REFUSAL: Final = forbidden(
    "Permission denied: your role in this tenant does not include that. "
    "Ask the administrator, or somebody who has the role."
)


class ReadableRefusal:
    """Middleware: the same status, and a body that says what to do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but that one answer."""
        waiting: list[Message] = []
        replaced = False

        async def look(message: Message) -> None:
            nonlocal replaced
            if replaced:
                return
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.FORBIDDEN:
                waiting.append(message)
                return
            if waiting and message.get("body") == _BARE:
                replaced = True
                await mlflow_exception_response(_READABLE_REFUSAL, handler_name=__name__)(
                    scope, receive, send
                )
                return
            while waiting:
                await send(waiting.pop())
            await send(message)

        await self._app(scope, receive, look)

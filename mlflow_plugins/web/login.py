"""Who is asking our own routes: the same login as MLflow's, with MLflow's functions.

MLflow authenticates its own routes itself; this does the same for applications mounted beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.server.auth.config import DEFAULT_AUTHORIZATION_FUNCTION
from mlflow.server.mlflow_response import mlflow_exception_response
from mlflow.server.workspace_helpers import WORKSPACE_HEADER_NAME
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mlflow_plugins.errors import forbidden
from mlflow_plugins.users import permissions
from mlflow_plugins.users.actor import logged_in
from mlflow_plugins.users.header import HEADER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="mlflow"'}
_REFUSAL: Final = (
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
        return PlainTextResponse(_REFUSAL, 401, headers=_CHALLENGE)
    return str(user.username)


def _user_of(request: Request) -> Any:
    if auth.auth_config.authorization_function != DEFAULT_AUTHORIZATION_FUNCTION:
        return auth._authenticate_custom_for_fastapi(request)  # noqa: SLF001 - what MLflow's own routes call
    return auth._authenticate_fastapi_request(request)  # noqa: SLF001 - same

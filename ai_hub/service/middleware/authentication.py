"""Nobody passes to an endpoint who is not authenticated; nothing of the request's body is read before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from ai_hub.access.errors import UnauthenticatedError
from ai_hub.errors import AiHubError
from ai_hub.service.errors import TooManyRequestsError, answer, request_id_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.service.middleware.rate_limit import Limiter
    from ai_hub.service.state import State

#: What is open; everything else needs a key.
OPEN = frozenset(
    {
        *("/health/live", "/health/ready", "/metrics"),
        *("/docs", "/docs/oauth2-redirect", "/openapi.json"),
        *(f"/docs/static/{name}" for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon.png")),
    }
)
_BEARER = "bearer "


class Authentication:
    """Sets `scope["state"]["principal"]`, or answers 401."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        authorization = headers.get("authorization") or ""
        bearer = authorization[len(_BEARER) :].strip() if authorization.lower().startswith(_BEARER) else None
        parts: State = scope["app"].state.parts
        try:
            principal = await parts.authenticator.authenticate(headers.get("x-api-key"), bearer)
        except AiHubError as error:
            problem = self._counted(error, scope) if isinstance(error, UnauthenticatedError) else error
            await answer(problem, request_id_of(scope))(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    def _counted(self, error: AiHubError, scope: Scope) -> AiHubError:
        """The same error, or that there were too many of its kind."""
        try:
            self._limiter.check_address(scope)
        except TooManyRequestsError as many:
            return many
        return error

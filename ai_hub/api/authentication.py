"""Authentication of every request, before any of its body is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers

from ai_hub.access import api_keys
from ai_hub.access.principal import UnauthenticatedError
from ai_hub.access.tokens import is_loopback
from ai_hub.api.errors import OverloadedError, answer
from ai_hub.api.paths import WATCHED
from ai_hub.errors import AiHubError, ForbiddenError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.access.authenticator import Authenticator
    from ai_hub.access.principal import Principal
    from ai_hub.api.limits import Limiter
    from ai_hub.api.services import State

#: What is open; everything else needs a key.
OPEN = frozenset(
    {
        *WATCHED,
        *("/docs", "/docs/oauth2-redirect", "/openapi.json"),
        *(f"/docs/static/{name}" for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon.png")),
    }
)
_BEARER = "bearer "
#: Requests that may wait, at once, for a look at the database or at the provider's keys.
MOST_WAITING: Final = 64
#: What nobody else can make lead here; a web page under any other name would be of somebody else.
_HOST: Final = re.compile(rb"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)


class Authentication:
    """Sets `scope["state"]["principal"]`, or answers 401."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        authorization = headers.get("authorization") or ""
        bearer = authorization[len(_BEARER) :].strip() if authorization.lower().startswith(_BEARER) else None
        key = headers.get("x-api-key")
        parts: State = scope["app"].state.parts
        try:
            principal = self._known(parts.authenticator, key, bearer, scope)
            if principal is None:
                principal = await self._looked_up(parts.authenticator, key, bearer)
        except AiHubError as error:
            if (parsed := api_keys.parse(key or bearer or "")) is not None:
                scope.setdefault("state", {})["key_id"] = parsed.key_id
            await answer(error, scope)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    def _known(
        self, authenticator: Authenticator, key: str | None, bearer: str | None, scope: Scope
    ) -> Principal | None:
        """The caller, if memory tells; whom it does not know is counted before anybody waits for more."""
        try:
            principal = authenticator.known(key, bearer)
        except UnauthenticatedError:
            self._limiter.check_address(scope)
            raise
        if principal is None:
            self._limiter.check_address(scope)
        return principal

    async def _looked_up(
        self, authenticator: Authenticator, key: str | None, bearer: str | None
    ) -> Principal:
        if self._waiting >= MOST_WAITING:
            raise OverloadedError(
                f"{self._waiting} requests with keys that are not known yet are waiting.",
                hint="Try again in a second; a key that was known goes on meanwhile.",
            )
        self._waiting += 1
        try:
            return await authenticator.look_up(key, bearer)
        finally:
            self._waiting -= 1


class LoopbackOnly:
    """Middleware; answers 403 to others. Only where `AI_HUB_API_AUTH` is off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "http" and not (_from_here(scope) and _to_here(scope)):
            refused = ForbiddenError(
                "AI_HUB_API_AUTH=off: this service answers requests of its own machine, to localhost, only.",
                hint="Leave AI_HUB_API_AUTH out and use keys (`ai-hub keys create`).",
            )
            await answer(refused, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _from_here(scope: Scope) -> bool:
    # none: a Unix socket, on which a proxy may pass on anybody's
    return is_loopback((scope.get("client") or ("", 0))[0])


def _to_here(scope: Scope) -> bool:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return bool(hosts) and all(_HOST.fullmatch(host) for host in hosts)

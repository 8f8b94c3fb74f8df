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
from ai_hub.concurrency import ConcurrencyLimiter, LimitReachedError
from ai_hub.errors import AiHubError, ForbiddenError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.access.authenticator import Authenticator
    from ai_hub.access.principal import Principal
    from ai_hub.api.limits import RateLimiter
    from ai_hub.api.services import Services

#: Paths that need no key.
_OPEN = frozenset(
    {
        *WATCHED,
        *("/docs", "/docs/oauth2-redirect", "/openapi.json"),
        *(f"/docs/static/{name}" for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon.png")),
    }
)
_BEARER = "bearer "
#: Requests that may wait at once for a key to be loaded from the database or from the provider.
MAX_WAITING: Final = 64
#: Host headers that no other site can have: a page under another name that resolves to here is refused.
_HOST: Final = re.compile(rb"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)


class Authentication:
    """Middleware: sets `scope["state"]["principal"]`, or answers 401."""

    def __init__(self, app: ASGIApp, limiter: RateLimiter) -> None:
        self._app = app
        self._limiter = limiter
        self._waiting = ConcurrencyLimiter(MAX_WAITING, per_key=MAX_WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        authorization = headers.get("authorization") or ""
        bearer = authorization[len(_BEARER) :].strip() if authorization.lower().startswith(_BEARER) else None
        key = headers.get("x-api-key")
        services: Services = scope["app"].state.services
        try:
            principal = self._from_cache(services.authenticator, key, bearer, scope)
            if principal is None:
                principal = await self._load(services.authenticator, key, bearer)
        except AiHubError as error:
            if (parsed := api_keys.parse(key or bearer or "")) is not None:
                scope.setdefault("state", {})["key_id"] = parsed.key_id
            await answer(error, scope)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    def _from_cache(
        self, authenticator: Authenticator, key: str | None, bearer: str | None, scope: Scope
    ) -> Principal | None:
        """The caller if its key is cached; all others are counted by address before they wait for more."""
        try:
            principal = authenticator.from_cache(key, bearer)
        except UnauthenticatedError:
            self._limiter.check_address(scope)
            raise
        if principal is None:
            self._limiter.check_address(scope)
        return principal

    async def _load(self, authenticator: Authenticator, key: str | None, bearer: str | None) -> Principal:
        try:
            with self._waiting.hold("unknown keys"):
                return await authenticator.load(key, bearer)
        except LimitReachedError:
            raise OverloadedError(
                f"{self._waiting.limit} requests with keys that are not known yet are waiting.",
                hint="Try again in a second; a key that was known goes on meanwhile.",
            ) from None


class LoopbackOnly:
    """Middleware where `AI_HUB_API_AUTH` is off: answers 403 to every other machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "http" and not (_is_from_loopback(scope) and _names_loopback(scope)):
            error = ForbiddenError(
                "AI_HUB_API_AUTH=off: this service answers requests of its own machine, to localhost, only.",
                hint="Leave AI_HUB_API_AUTH out and use keys (`ai-hub keys create`).",
            )
            await answer(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_from_loopback(scope: Scope) -> bool:
    # no client: a Unix socket, through which a proxy may forward anybody
    return is_loopback((scope.get("client") or ("", 0))[0])


def _names_loopback(scope: Scope) -> bool:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return bool(hosts) and all(_HOST.fullmatch(host) for host in hosts)

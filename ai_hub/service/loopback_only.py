"""A service without authentication answers this machine alone, whatever it was started with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ai_hub.access.provider_keys import is_loopback
from ai_hub.errors import ForbiddenError
from ai_hub.service.errors import answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: What nobody else can make lead here; a web page under any other name would be of somebody else.
_HOST: Final = re.compile(rb"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)


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

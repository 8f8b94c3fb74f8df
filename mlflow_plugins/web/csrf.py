"""Refuses requests that another site's page makes a browser send.

Browsers add the password of a page's login to every request to that server, also to those that come from
other sites' forms and scripts. MLflow's own check covers its `/api` paths and lets every port of the local
machine pass; this one follows Go's `net/http.CrossOriginProtection`: `Sec-Fetch-Site`, which pages cannot
forge, and for browsers that do not send it, `Origin` against `Host`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mlflow.server.fastapi_security import get_allowed_origins
from mlflow.server.mlflow_response import mlflow_exception_response
from starlette.datastructures import Headers

from mlflow_plugins.errors import forbidden

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send


_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})  # `none`: typed into the address bar
_REFUSAL: Final = forbidden(
    "Refused: a page of another site asked for this change. If that site is yours, name it in "
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS."
)


class SameOrigin:
    """Middleware: state changes only from our own pages, allowed origins, and programs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # "*" lets everybody read; it was never meant to let everybody write in the users' names
        self._allowed = frozenset(get_allowed_origins()) - {"*"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass on."""
        if scope["type"] == "http" and is_foreign(scope["method"], Headers(scope=scope), self._allowed):
            await mlflow_exception_response(_REFUSAL, handler_name=__name__)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_foreign(method: str, headers: Mapping[str, str], allowed: Collection[str]) -> bool:
    """Whether a request would change something and comes from a page of another origin."""
    if method in _SAFE_METHODS:
        return False
    origin = headers.get("origin")
    if origin is not None and origin in allowed:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in _OWN_SITE
    # behind a proxy that ends TLS the schemes differ, so only host and port are compared
    return origin is not None and urlsplit(origin).netloc != headers.get("host")

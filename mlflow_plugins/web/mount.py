"""What stands before MLflow's application: our own parts, its front page, `/health`, a check of origins.

Browsers add the password of a page's login to every request to that server, also to those that come from
other sites' forms and scripts. MLflow's own check covers its `/api` paths and lets every port of the local
machine pass; `SameOrigin` follows Go's `net/http.CrossOriginProtection`: `Sec-Fetch-Site`, which pages cannot
forge, and for browsers that do not send it, `Origin` against `Host`.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from mlflow.server.fastapi_security import get_allowed_origins
from mlflow.server.mlflow_response import mlflow_exception_response
from mlflow.telemetry.client import set_telemetry_client
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse

from mlflow_plugins import lineage_events
from mlflow_plugins.errors import forbidden
from mlflow_plugins.gates.policy import gate_class, gate_names

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Mount:
    """Hands each request on by the beginning of its path; everything else is MLflow's, the lifespan as well.

    Args:
        rest: MLflow's application.
        mounted: applications by the path they are mounted at, which they do not see.
        pages: applications by the path they answer from on, as they see it.
        before: what stands before one of MLflow's own paths.
    """

    def __init__(
        self,
        rest: ASGIApp,
        mounted: Mapping[str, ASGIApp],
        pages: Mapping[str, ASGIApp],
        before: Mapping[str, ASGIApp],
    ) -> None:
        self._rest = rest
        self._mounted = tuple((f"{path}/", path, app) for path, app in mounted.items())
        self._pages = tuple((f"{path}/", path, app) for path, app in [*pages.items(), *before.items()])
        #: every application with the path its own routes begin at
        self.parts = (*((path, app) for path, app in mounted.items()), *(("", app) for app in pages.values()))
        self.parts += (("", rest),)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        of_server = scope["type"] == "lifespan"
        await self._choose(scope)(scope, receive, _after_events(send) if of_server else send)

    def _choose(self, scope: Scope) -> ASGIApp:
        kind = scope["type"]
        if kind == "lifespan":
            return self._rest
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        for below, mount, app in self._mounted:
            if path.startswith(below):
                scope["app_root_path"] = scope.get("app_root_path", root)
                scope["root_path"] = root + mount
                return app
        if kind == "http":
            for below, page, app in self._pages:
                if path == page or path.startswith(below):
                    return app
        return self._rest


def _after_events(send: Send) -> Send:
    """Let lineage events go before the server has shut down: then SIGTERM ends the process at once."""

    async def finish_and_send(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await asyncio.to_thread(lineage_events.finish)
        await send(message)

    return finish_and_send


#: Where MLflow's assistant answers; its tools run on the server's machine.
ASSISTANT: Final = "/ajax-api/3.0/mlflow/assistant"
_HEAD: Final = b"<head>"
#: A page that was changed is not what the browser has.
_CONDITIONS: Final = frozenset({b"if-none-match", b"if-modified-since", b"range"})


class FrontPage:
    """`/` of MLflow, which loads `lifecycle/mlflow.js` first."""

    def __init__(self, app: ASGIApp, *, assistant: bool) -> None:
        self._app = app
        off = "" if assistant else ' data-assistant="off"'
        self._added = (
            '<link rel="stylesheet" href="./lifecycle/mlflow.css">'
            f'<script src="./lifecycle/mlflow.js"{off}></script>'
        ).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """MLflow's answer; a page gets the script."""
        if scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _CONDITIONS]
        start: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._answer(start, body, send)

        await self._app({**scope, "headers": headers}, receive, collect)

    async def _answer(self, start: Message, body: bytes, send: Send) -> None:
        if _HEAD in body:
            body = body.replace(_HEAD, _HEAD + self._added, 1)
            headers = MutableHeaders(raw=list(start["headers"]))
            headers["Content-Length"] = str(len(body))
            headers["Cache-Control"] = "no-cache"
            del headers["ETag"], headers["Last-Modified"]
            start = {**start, "headers": headers.raw}
        await send(start)
        await send({"type": "http.response.body", "body": body})


async def no_assistant(scope: Scope, receive: Receive, send: Send) -> None:
    """404 in place of MLflow's assistant."""
    answer = JSONResponse({"detail": "The assistant is off: AI_HUB_MLFLOW_ASSISTANT turns it on."}, 404)
    await answer(scope, receive, send)


class WarmUp:
    """`/health` of MLflow, which says that the server is ready once every installed gate is.

    The gates get ready in the background; other paths do not wait for them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._done = threading.Event()
        threading.Thread(target=self._run, name="warm-up", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """MLflow's answer, or 503."""
        if self._done.is_set():
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("starting", 503, {"Retry-After": "1"})(scope, receive, send)

    def wait(self) -> None:
        """Return when the gates are ready."""
        self._done.wait()

    def _run(self) -> None:
        # A promotion that needs a gate meets the same failure, and says it.
        try:
            with suppress(Exception):
                for name in gate_names():
                    with suppress(Exception):
                        gate_class(name).warm_up()
        finally:
            self._done.set()


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


def report_nothing() -> None:
    """Turn the reports of this server off, unless MLFLOW_DISABLE_TELEMETRY says something."""
    if not MLFLOW_DISABLE_TELEMETRY.is_set():
        MLFLOW_DISABLE_TELEMETRY.set(True)
        set_telemetry_client()

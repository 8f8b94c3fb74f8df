"""MLflow's front page with a script of ours, and its assistant off unless a setting turns it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

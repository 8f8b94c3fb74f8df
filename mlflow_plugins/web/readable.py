"""MLflow's refusal of somebody without the permission, as an error its pages and clients know how to show.

MLflow's login answers with the bare text `Permission denied`; its pages look for JSON and, finding none,
report an internal error.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from mlflow.server.mlflow_response import mlflow_exception_response

from mlflow_plugins.errors import forbidden

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BARE: Final = b"Permission denied"
_REFUSAL: Final = forbidden(
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
                await mlflow_exception_response(_REFUSAL, handler_name=__name__)(scope, receive, send)
                return
            while waiting:
                await send(waiting.pop())
            await send(message)

        await self._app(scope, receive, look)

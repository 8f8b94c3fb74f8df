"""No request's body is larger than its endpoint takes, whatever its Content-Length says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ai_hub.service.errors import MalformedError, TooLargeError, answer, request_id_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ai_hub.errors import AiHubError

#: Where models are uploaded.
UPLOAD: Final = ("POST", "/ai/models/register")


class BodyLimit:
    """Answers 413; counts what really comes."""

    def __init__(self, app: ASGIApp, most_bytes: int, most_upload_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._most_upload_bytes = most_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = (scope["method"], scope["path"].rstrip("/")) == UPLOAD
        most = self._most_upload_bytes if is_upload else self._most_bytes
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        error: AiHubError | None = None
        if not announced.isdigit():
            error = MalformedError(
                "The header Content-Length is not a number.", hint="Leave it to your library."
            )
        elif len(announced) > len(str(most)) or int(announced) > most:
            error = _too_large(most)
        if error is not None:
            await answer(error, request_id_of(scope))(scope, receive, send)
            return
        await self._counted(scope, receive, send, most)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        received = 0
        exceeded = answered = False

        async def count() -> Message:
            nonlocal received, exceeded
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > most:
                    exceeded = True
                    # the endpoint stops reading here; what it answers is dropped below
                    return {"type": "http.disconnect"}
            return message

        async def pass_on(message: Message) -> None:
            nonlocal answered
            if exceeded and not answered:
                return
            answered = True
            await send(message)

        try:
            await self._app(scope, count, pass_on)
        except Exception:
            if not exceeded:
                raise
        if exceeded and not answered:
            await answer(_too_large(most), request_id_of(scope))(scope, receive, send)


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"This request is larger than {most:,} bytes.", hint="Ask for less at once, or give models as a run."
    )

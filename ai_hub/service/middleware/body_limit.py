"""No request's body is larger than its endpoint takes, whatever its Content-Length says, nor without end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ai_hub.service.errors import MalformedError, TooLargeError, TooSlowError, answer
from ai_hub.service.http_protocol import WHOLE
from ai_hub.service.middleware.paths import UPLOAD

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ai_hub.errors import AiHubError

#: A body must come within so many seconds, and one more for each so many bytes of it.
BODY_S: Final = 20.0
LEAST_BYTES_PER_S: Final = 50_000


class BodyLimit:
    """Answers 413 and 408; counts what really comes."""

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
            await answer(error, scope)(scope, receive, send)
            return
        await self._counted(scope, receive, send, most)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        body = _Body(scope.setdefault("state", {}), receive, send, most)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if body.problem is None:
                raise
        if body.problem is not None and not body.answered:
            response = answer(body.problem, scope)
            if isinstance(body.problem, TooSlowError):
                response.headers["Connection"] = "close"  # the rest may never come
            await response(scope, receive, send)


class _Body:
    """What comes of one request; at a problem its endpoint stops reading, and what it answers is dropped."""

    __slots__ = ("_due", "_most", "_receive", "_received", "_send", "_state", "answered", "problem")

    def __init__(self, state: dict[str, Any], receive: Receive, send: Send, most: int) -> None:
        self._state = state
        self._receive = receive
        self._send = send
        self._most = most
        self._received = 0
        self._due: float | None = None
        self.problem: AiHubError | None = None
        self.answered = False

    async def receive(self) -> Message:
        if self.problem is None:
            # what is there needs no clock, nor does waiting for the client to leave
            message = await (self._receive() if self._state.get(WHOLE) else self._in_time())
            if message["type"] == "http.request":
                self._received += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self._state[WHOLE] = True
                if self._received > self._most:
                    self.problem = _too_large(self._most)
        return message if self.problem is None else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.problem is None or self.answered:
            self.answered = True
            await self._send(message)

    async def _in_time(self) -> Message:
        if self._due is None:
            self._due = asyncio.get_running_loop().time() + BODY_S
        try:
            async with asyncio.timeout_at(self._due + self._received / LEAST_BYTES_PER_S):
                return await self._receive()
        except TimeoutError:
            self.problem = _too_slow()
            return {"type": "http.disconnect"}


def _too_slow() -> TooSlowError:
    return TooSlowError(
        f"The request's body did not come within {BODY_S:.0f} seconds and at"
        f" {LEAST_BYTES_PER_S:,} bytes a second.",
        hint="Send it at once; large models can be given as a run.",
    )


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"This request is larger than {most:,} bytes.", hint="Ask for less at once, or give models as a run."
    )

"""`POST /ai/features/get` without the framework's machinery, which takes longer than reading features.

A request that is in order is answered here; any other one goes to the endpoint of the same path, which says
what is wrong with it. The endpoint is also what OpenAPI shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.routing import Match, Route

from ai_hub.service.routes import features
from ai_hub.service.schemas.features import FeaturesRequest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Message, Receive, Scope, Send

PATH = "/ai/features/get"
_JSON = b"application/json"
#: In the state of a request that was left to the endpoint.
_LEFT = "left_to_endpoint"


def install(app: FastAPI) -> None:
    """Answer the path before the framework does."""
    app.router.routes.insert(0, _Online(app))


class _Online(Route):
    def __init__(self, app: FastAPI) -> None:
        super().__init__(PATH, _Answer(app, self), methods=["POST"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope.get("state", {}).get(_LEFT):
            return Match.NONE, {}
        return super().matches(scope)


class _Answer:
    def __init__(self, app: FastAPI, route: Route) -> None:
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        content = b"".join(chunks)
        asked = _parsed(scope, content)
        if asked is None:
            await self._leave(scope, content, receive, send)
            return
        scope["route"] = self._route
        state = scope["state"]
        body = await features.answer(asked, state["principal"], self._app.state.parts, state)
        headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _leave(self, scope: Scope, content: bytes, receive: Receive, send: Send) -> None:
        """Let the endpoint answer, which has yet to read the content."""
        unread = [content]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        scope["state"][_LEFT] = True
        await self._app.router(scope, replay, send)


def _parsed(scope: Scope, content: bytes) -> FeaturesRequest | None:
    """The request; None: it is not in order."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if kind.partition(b";")[0].strip().lower() != _JSON:
        return None
    try:
        return FeaturesRequest.model_validate_json(content)
    except ValidationError:
        return None

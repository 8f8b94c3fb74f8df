"""Requests with the files of a model: tens of megabytes, of which nobody else may notice anything."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from ai_hub.access.principal import Principal, Scope
from ai_hub.service.errors import MalformedError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from starlette.types import Message, Receive

#: Values of a document, about: what separates them is counted. Files are in Base64, which has none of it.
MOST_VALUES: Final = 200_000
_SEPARATORS: Final = (b",", b"[", b"{")
#: Bodies of the largest size that may be in memory at once: each is there several times while it is read.
MOST_AT_ONCE: Final = 4
_CLIENT_LEFT: Final = 499


class _Uploads:
    """Counts the bytes of uploads that are in memory."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def counted(self, receive: Receive, most_bytes: int) -> Iterator[Receive]:
        """A way to receive one more upload.

        Raises:
            OverloadedError: by what comes that way, there are more than `most_bytes`.
        """
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held += size
            if self._held > most_bytes:
                raise OverloadedError(
                    "Many models are being uploaded.",
                    hint="Try again in a minute, or give the model as a run.",
                )
            return message

        try:
            yield count
        finally:
            self._held -= received


class _UploadRequest(Request):
    async def json(self) -> Any:
        """Parse it beside the event loop."""
        return await asyncio.to_thread(json.loads, await self.body())


class UploadRoute(APIRoute):
    """A route that takes large bodies: from callers that may, not too many at once, and easy to read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, behind these checks."""
        handle = super().get_route_handler()
        uploads = _Uploads()

        async def handle_upload(request: Request) -> Response:
            # before a byte of it is read
            cast("Principal", request.scope["state"]["principal"]).require_scope(Scope.MODELS_REGISTER)
            most = request.app.state.parts.options.max_upload_bytes * MOST_AT_ONCE
            with uploads.counted(request.receive, most) as receive:
                upload = _UploadRequest(request.scope, receive)
                try:
                    body = await upload.body()
                except ClientDisconnect:
                    return Response(status_code=_CLIENT_LEFT)
                if sum(map(body.count, _SEPARATORS)) > MOST_VALUES:
                    raise MalformedError(
                        f"The document has more than {MOST_VALUES:,} values.",
                        hint="Put large objects into a file of the model.",
                    )
                return await handle(upload)

        return handle_upload

"""How the web server reads HTTP: heads have an end, and errors the form that every endpoint's have."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport

#: Bytes of a request's line and headers, and seconds in which they must come.
MOST_HEAD_BYTES: Final = 65_536
HEAD_S: Final = 20.0


class BoundedProtocol(HttpToolsProtocol):
    """Holds no more than `MOST_HEAD_BYTES` of a head, for no longer than `HEAD_S`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes: int | None = 0  # None: it is complete
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"The request's headers are larger than {MOST_HEAD_BYTES:,} bytes.",
                    "Send fewer or shorter ones.",
                )

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._start_head()

    def on_headers_complete(self) -> None:
        """The end of its headers."""
        self._head_bytes = None
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """It is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg, "Send HTTP/1.1 requests, with a library for it.")

    def _start_head(self) -> None:
        self._head_bytes = 0
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_S, self._too_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The request's headers did not come within {HEAD_S:.0f} seconds.",
                "Send them at once.",
            )

    def _refuse(self, status: HTTPStatus, message: str, hint: str) -> None:
        self._stop_timer()
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # an answer is half sent
            return
        body = json.dumps({"error": status.name.lower(), "message": message, "hint": hint}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

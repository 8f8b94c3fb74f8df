"""The web server's HTTP protocol, with limits on slow or large heads and on clients that do not read.

Requests for features are answered here, without ASGI and the framework, which take longer than reading them.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ai_hub.api.paths import ONLINE

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport
    from collections.abc import Sequence

    from starlette.types import Scope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: Limits of a request's line and headers.
MAX_HEAD_BYTES: Final = 65_536
HEAD_S: Final = 20.0
#: A client whose buffer is full must read `MIN_BYTES` of the answer within `ANSWER_S`.
ANSWER_S: Final = 30.0
MIN_BYTES: Final = 1_000_000
#: Key in the state of a request whose body has arrived in full.
BODY_COMPLETE: Final = "body_complete"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Key in the lifespan's state of the `OnlineEndpoint`.
ONLINE_ENDPOINT: Final = "online"
#: Seconds in which the body of a request for features comes, or else the framework waits for it.
_BODY_S: Final = 0.05


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class OnlineEndpoint(Protocol):
    """Answers requests for features."""

    async def answer(self, scope: Scope, body: bytearray) -> Answer | None:
        """The answer; None: the framework must say what is wrong with the request. Raises nothing."""


def header(scope: Any, name: bytes) -> bytes | None:
    """The first header of a request with this name, in lower case; None: there is none."""
    for each, value in scope["headers"]:
        if each == name:
            return cast("bytes", value)
    return None


class _JoinedHead:
    """The transport of one answer, which sends its head together with the first bytes of its body."""

    __slots__ = ("_head", "_is_head_sent", "_transport")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._head = b""
        self._is_head_sent = False

    def write(self, data: bytes) -> None:
        if self._is_head_sent or data == _CONTINUE:
            self._transport.write(data)
        elif self._head:
            self._is_head_sent = True
            self._transport.write(self._head + data)
        else:
            self._head = data

    def close(self) -> None:
        if self._head and not self._is_head_sent:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


async def _nothing(*_: object) -> None:
    """What the middleware for proxies calls: it has changed the scope."""


class BoundedProtocol(HttpToolsProtocol):
    """Limits a head to `MAX_HEAD_BYTES` and `HEAD_S`, and drops clients that do not read their answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes: int | None = 0  # None: it is complete
        self._heads = 0
        #: answer to a refused request that is pipelined behind unanswered ones
        self._refusal: bytes | None = None
        self._head_timer: TimerHandle | None = None
        self._answer_timer: TimerHandle | None = None
        #: a request for features and its application, while its body is still to come
        self._awaited: tuple[RequestResponseCycle, Any] | None = None
        self._body_timer: TimerHandle | None = None
        self._proxy = ProxyHeadersMiddleware(cast("Any", _nothing), self.config.forwarded_allow_ips)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """Take in bytes of a request, and refuse heads that are too large."""
        if self.transport.is_closing() or self._refusal is not None:
            return
        heads = self._heads
        super().data_received(data)
        if self._head_bytes is not None and not self.transport.is_closing() and self._refusal is None:
            # most heads come whole, and need no timer
            if self._head_timer is None:
                self._start_timer()
            # where a further head begins, the same bytes may end what came before it
            if self._heads in {heads, 1}:
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"The request's headers are larger than {MAX_HEAD_BYTES:,} bytes.",
                    "Send fewer or shorter ones.",
                )

    def on_message_begin(self) -> None:
        """Count the head from here."""
        super().on_message_begin()
        self._heads += 1
        self._head_bytes = 0
        self._stop_timer()

    def on_headers_complete(self) -> None:
        """Stop counting the head."""
        self._head_bytes = None
        self._stop_timer()
        before = self.cycle
        super().on_headers_complete()
        # an answer to HEAD has no body that its head could wait for
        if self.cycle is not before and self.scope["method"] != "HEAD":
            self.cycle.transport = cast("Transport", _JoinedHead(self.transport))

    def on_message_complete(self) -> None:
        """Note that the body has arrived in full."""
        self.scope["state"][BODY_COMPLETE] = True
        super().on_message_complete()
        if self._awaited is not None:
            self._start_awaited()

    def on_body(self, body: bytes) -> None:
        """Take in a part of the body; the framework waits for the rest of a large one."""
        super().on_body(body)
        if self._awaited is not None and len(self._awaited[0].body) > HIGH_WATER_LIMIT:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Send a refusal that waited for the answers before it."""
        super().on_response_complete()
        if self._refusal is not None and self.cycle.response_complete and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()

    def pause_writing(self) -> None:
        """Start to watch whether the client reads: its buffer is full."""
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        """Stop watching: the client has read."""
        self._stop_answer_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg, "Send HTTP/1.1 requests, with a library for it.")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        is_online = cycle.scope["path"] == ONLINE and cycle.scope["method"] == "POST"
        if not is_online or ONLINE_ENDPOINT not in self.app_state or cycle.waiting_for_100_continue:
            super()._start_asgi_task(cycle, app)
            return
        self._awaited = cycle, app
        if cycle.more_body:
            self._body_timer = self.loop.call_later(_BODY_S, self._stop_waiting)
        else:
            self._start_awaited()

    def _stop_waiting(self) -> None:
        """Let the framework wait for the rest of the body."""
        if self._awaited is not None:
            super()._start_asgi_task(*self._take_awaited())

    def _start_awaited(self) -> None:
        task = self.loop.create_task(self._answer_online(*self._take_awaited()))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _take_awaited(self) -> tuple[RequestResponseCycle, Any]:
        awaited, self._awaited = self._awaited, None
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        return cast("tuple[RequestResponseCycle, Any]", awaited)

    async def _answer_online(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: Any = cycle.scope
        for name, _ in scope["headers"]:
            if name == b"x-forwarded-for":
                await self._proxy(scope, cast("Any", None), cast("Any", None))
                break
        endpoint: OnlineEndpoint = self.app_state[ONLINE_ENDPOINT]
        answer = None
        if not cycle.flow.write_paused:
            try:
                answer = await endpoint.answer(scope, cycle.body)
            except asyncio.CancelledError:  # the service ends
                await cycle.send_500_response()
                raise
        if answer is None:
            await cycle.run_asgi(app)
        else:
            # sending wakes a client, which may take the core: first the others of this pass are answered
            self.loop.call_soon(self._respond, cycle, answer)

    def _respond(self, cycle: RequestResponseCycle, answer: Answer) -> None:
        """Send a whole answer at once, as `RequestResponseCycle.send` does in two steps."""
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        lines = [STATUS_LINE[answer.status]]
        for name, value in (*cycle.default_headers, *answer.headers):
            lines += name, b": ", value, b"\r\n"
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += b"\r\n", answer.body
        self.transport.write(b"".join(lines))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._head_timed_out)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        if not self.transport.is_closing():
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The request's headers did not come within {HEAD_S:.0f} seconds.",
                "Send them at once.",
            )

    def _watch_answer(self) -> None:
        self._answer_timer = self.loop.call_later(
            ANSWER_S, self._check_answer_is_read, self.transport.get_write_buffer_size()
        )

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _check_answer_is_read(self, before: int) -> None:
        if self.transport.get_write_buffer_size() > before - MIN_BYTES:
            self.transport.abort()  # closing would wait for the client
        else:
            self._watch_answer()

    def _refuse(self, status: HTTPStatus, message: str, hint: str) -> None:
        self._stop_timer()
        body = json.dumps({"error": status.name.lower(), "message": message, "hint": hint}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        refusal = head.encode() + body
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(refusal)
        elif self.pipeline or not self.cycle.more_body:
            self._refusal = refusal  # its turn comes when the requests before it are answered
            return
        elif not self.cycle.response_started:
            self.transport.write(refusal)
        self.transport.close()

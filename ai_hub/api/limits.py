"""Limits of a request's size and duration, of request rates, and of concurrent requests."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final

from ai_hub.api import observability
from ai_hub.api.errors import (
    MalformedError,
    OverloadedError,
    TooLargeError,
    TooManyRequestsError,
    TooSlowError,
    answer,
)
from ai_hub.api.http_protocol import WHOLE
from ai_hub.api.paths import ONLINE, UPLOAD, WATCHED

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ai_hub.access.principal import Principal
    from ai_hub.errors import AiHubError


#: A body must come within so many seconds, and one more for each so many bytes of it.
BODY_S: Final = 20.0
LEAST_BYTES_PER_S: Final = 50_000
#: Counters for client addresses: many addresses share one, so that a flood from many takes no memory.
_ADDRESS_COUNTERS: Final = 4096
#: Keys after which those at rest are forgotten.
_REMEMBERED: Final = 10_000
#: Of a sum of intervals.
_ROUNDING: Final = 1e-9
#: One host has a whole network of these.
_IPV6_NETWORK_BITS: Final = 64


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


class Limiter:
    """Counts by caller and by client address, in this process."""

    def __init__(self, per_caller_s: int, per_address_s: int) -> None:
        self._callers = _Rate(per_caller_s)
        self._addresses = _Rate(per_address_s)
        self._watchers = _Rate(per_address_s)
        self._per_caller_s = per_caller_s

    def check_caller(self, principal: Principal) -> None:
        """Count a request of a known caller.

        Raises:
            TooManyRequestsError: it was one too many.
        """
        if not self._callers.take(principal.counted_as):
            raise TooManyRequestsError(
                f"{principal.name} may ask {self._per_caller_s} times a second.",
                hint="Ask for many assets in one request, or spread your requests.",
            )

    def check_address(self, scope: Scope) -> None:
        """Count a request of nobody known.

        Whoever watches the service is counted apart, for behind a proxy all have one address.

        Raises:
            TooManyRequestsError: it was one too many.
        """
        rate = self._watchers if scope["path"] in WATCHED else self._addresses
        if not rate.take(_counter(scope)):
            raise TooManyRequestsError(
                "Too many requests without a valid key.", hint="Wait, and use a valid key."
            )


class _Rate:
    """So many a second, of each key, and as many at once: the generic cell rate algorithm (ITU-T I.371).

    Its own, because libraries for it take longer than reading features: one starts threads.
    """

    def __init__(self, per_second: int) -> None:
        self._interval = 1 / per_second
        #: by key, when all that was taken would have arrived at an even rate
        self._arrival: dict[str, float] = {}

    def take(self, key: str) -> bool:
        """Whether one more is in order."""
        now = time.monotonic()
        arrival = max(self._arrival.get(key, now), now)
        if arrival - now > 1 - self._interval + _ROUNDING:
            return False
        if len(self._arrival) >= _REMEMBERED and key not in self._arrival:
            self._arrival = {name: then for name, then in self._arrival.items() if then > now}
        self._arrival[key] = arrival + self._interval
        return True


class RateLimit:
    """Answers 429."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "http":
            principal: Principal | None = scope.get("state", {}).get("principal")
            try:
                if principal is None:
                    self._limiter.check_address(scope)
                elif not principal.every_tenant:
                    self._limiter.check_caller(principal)
            except TooManyRequestsError as error:
                await answer(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _counter(scope: Scope) -> str:
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(hash(host) % _ADDRESS_COUNTERS)
    network = int(address) >> _IPV6_NETWORK_BITS if isinstance(address, IPv6Address) else int(address)
    return str(hash((address.version, network)) % _ADDRESS_COUNTERS)


class Places:
    """At most `most` requests of the online path, and as many of all others, are under way.

    One caller has half of them at most. The innermost middleware: whoever is refused before takes no place.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._most_of_one = max(1, most // 2)
        self._under_way = {"online": 0, "other": 0}
        #: by group and caller; those with none are not in it
        self._of_callers: defaultdict[tuple[str, str], int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in WATCHED:
            await self._app(scope, receive, send)
            return
        group = "online" if scope["path"] == ONLINE else "other"
        principal: Principal | None = scope.get("state", {}).get("principal")
        caller = group, "" if principal is None else principal.counted_as
        if (refused := self._refused(caller, principal)) is not None:
            observability.REFUSED.labels(group).inc()
            await answer(refused, scope)(scope, receive, send)
            return
        self._under_way[group] += 1
        self._of_callers[caller] += 1
        observability.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way[group] -= 1
            self._of_callers[caller] -= 1
            if not self._of_callers[caller]:
                del self._of_callers[caller]
            observability.IN_FLIGHT.dec()

    def _refused(self, caller: tuple[str, str], principal: Principal | None) -> AiHubError | None:
        """Why there is no place."""
        if self._under_way[caller[0]] >= self._most:
            return OverloadedError(
                f"{self._most} requests are under way.", hint="Try again in a second, or run more workers."
            )
        if principal is not None and principal.every_tenant:
            return None
        if self._of_callers.get(caller, 0) >= self._most_of_one:
            name = "nobody known" if principal is None else principal.name
            return TooManyRequestsError(
                f"{self._most_of_one} requests of {name} are under way.",
                hint="Wait for answers before you ask for more.",
            )
        return None

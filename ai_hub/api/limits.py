"""Limits of a request's size and duration, of request rates, and of concurrent requests."""

from __future__ import annotations

import asyncio
import time
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
from ai_hub.api.http_protocol import BODY_COMPLETE
from ai_hub.api.paths import ONLINE, UPLOAD, WATCHED
from ai_hub.concurrency import ConcurrencyLimiter, KeyLimitReachedError, LimitReachedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ai_hub.access.principal import Principal
    from ai_hub.errors import AiHubError


#: Seconds in which a body must come, and bytes for each of which one more second is given.
BODY_S: Final = 20.0
MIN_BYTES_PER_S: Final = 50_000
#: Counters for client addresses: many addresses share one, so that a flood from many takes no memory.
_ADDRESS_COUNTERS: Final = 4096
#: Keys after which those that are idle are forgotten.
_MAX_KEYS: Final = 10_000
#: Of a sum of intervals.
_ROUNDING: Final = 1e-9
#: One host has a whole network of these.
_IPV6_NETWORK_BITS: Final = 64


class BodyLimit:
    """Middleware: answers 413 to bodies that are too large and 408 to those that are too slow.

    It counts the bytes that arrive, whatever Content-Length says.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = (scope["method"], scope["path"].rstrip("/")) == UPLOAD
        limit = self._max_upload_bytes if is_upload else self._max_bytes
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        error: AiHubError | None = None
        if not length.isdigit():
            error = MalformedError(
                "The header Content-Length is not a number.", hint="Leave it to your library."
            )
        elif len(length) > len(str(limit)) or int(length) > limit:
            error = _too_large(limit)
        if error is not None:
            await answer(error, scope)(scope, receive, send)
            return
        await self._pass_on(scope, receive, send, limit)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        body = _Body(scope.setdefault("state", {}), receive, send, limit)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if body.error is None:
                raise
        if body.error is not None and not body.is_answered:
            response = answer(body.error, scope)
            if isinstance(body.error, TooSlowError):
                response.headers["Connection"] = "close"  # the rest may never come
            await response(scope, receive, send)


class _Body:
    """One request's body; after an error the endpoint reads a disconnect, and its answer is dropped."""

    __slots__ = ("_deadline", "_limit", "_receive", "_received", "_send", "_state", "error", "is_answered")

    def __init__(self, state: dict[str, Any], receive: Receive, send: Send, limit: int) -> None:
        self._state = state
        self._receive = receive
        self._send = send
        self._limit = limit
        self._received = 0
        self._deadline: float | None = None
        self.error: AiHubError | None = None
        self.is_answered = False

    async def receive(self) -> Message:
        if self.error is None:
            # a body that is complete needs no clock, nor does waiting for the client to leave
            message = await (self._receive() if self._state.get(BODY_COMPLETE) else self._receive_in_time())
            if message["type"] == "http.request":
                self._received += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self._state[BODY_COMPLETE] = True
                if self._received > self._limit:
                    self.error = _too_large(self._limit)
        return message if self.error is None else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.error is None or self.is_answered:
            self.is_answered = True
            await self._send(message)

    async def _receive_in_time(self) -> Message:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + BODY_S
        try:
            async with asyncio.timeout_at(self._deadline + self._received / MIN_BYTES_PER_S):
                return await self._receive()
        except TimeoutError:
            self.error = _too_slow()
            return {"type": "http.disconnect"}


class RateLimiter:
    """Counts requests by caller and by client address, in this process."""

    def __init__(self, per_caller_s: int, per_address_s: int) -> None:
        self._callers = _Rate(per_caller_s)
        self._addresses = _Rate(per_address_s)
        self._watchers = _Rate(per_address_s)
        self._per_caller_s = per_caller_s

    def check_caller(self, principal: Principal) -> None:
        """Count a request of an authenticated caller.

        Raises:
            TooManyRequestsError: it is over the rate.
        """
        if not self._callers.take(principal.counted_as):
            raise TooManyRequestsError(
                f"{principal.name} may ask {self._per_caller_s} times a second.",
                hint="Ask for many assets in one request, or spread your requests.",
            )

    def check_address(self, scope: Scope) -> None:
        """Count a request without a valid key by the client's address.

        Health checks and metrics are counted apart, because behind a proxy all clients have one address.

        Raises:
            TooManyRequestsError: it is over the rate.
        """
        rate = self._watchers if scope["path"] in WATCHED else self._addresses
        if not rate.take(_address_key(scope)):
            raise TooManyRequestsError(
                "Too many requests without a valid key.", hint="Wait, and use a valid key."
            )


class _Rate:
    """A rate for each key, with a burst of one second: the generic cell rate algorithm (ITU-T I.371).

    Our own, because libraries for it take longer than reading features: one starts threads.
    """

    def __init__(self, per_second: int) -> None:
        self._interval = 1 / per_second
        #: by key, when all that was taken would have arrived at an even rate
        self._arrival: dict[str, float] = {}

    def take(self, key: str) -> bool:
        """Count one; False: it is over the rate, and is not counted."""
        now = time.monotonic()
        arrival = max(self._arrival.get(key, now), now)
        if arrival - now > 1 - self._interval + _ROUNDING:
            return False
        if len(self._arrival) >= _MAX_KEYS and key not in self._arrival:
            self._arrival = {name: then for name, then in self._arrival.items() if then > now}
        self._arrival[key] = arrival + self._interval
        return True


class RateLimit:
    """Middleware: answers 429 to requests over the rate."""

    def __init__(self, app: ASGIApp, limiter: RateLimiter) -> None:
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


class ConcurrencyLimit:
    """Middleware: limits concurrent requests, globally (503) and per caller to half of that (429).

    The online path has a limit of its own. Innermost, so that whoever is refused before it takes no slot.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limiters = {
            group: ConcurrencyLimiter(limit, per_key=max(1, limit // 2)) for group in ("online", "other")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in WATCHED:
            await self._app(scope, receive, send)
            return
        group = "online" if scope["path"] == ONLINE else "other"
        limiter = self._limiters[group]
        principal: Principal | None = scope.get("state", {}).get("principal")
        caller = "" if principal is None else principal.counted_as
        try:
            limiter.acquire(caller, exempt=principal is not None and principal.every_tenant)
        except LimitReachedError as reached:
            observability.REFUSED.labels(group).inc()
            await answer(_refusal(reached, limiter, principal), scope)(scope, receive, send)
            return
        observability.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            limiter.release(caller)
            observability.IN_FLIGHT.dec()


def _refusal(
    reached: LimitReachedError, limiter: ConcurrencyLimiter, principal: Principal | None
) -> AiHubError:
    if isinstance(reached, KeyLimitReachedError):
        name = "nobody known" if principal is None else principal.name
        return TooManyRequestsError(
            f"{limiter.per_key} requests of {name} are under way.",
            hint="Wait for answers before you ask for more.",
        )
    return OverloadedError(
        f"{limiter.limit} requests are under way.", hint="Try again in a second, or run more workers."
    )


def _address_key(scope: Scope) -> str:
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(hash(host) % _ADDRESS_COUNTERS)
    network = int(address) >> _IPV6_NETWORK_BITS if isinstance(address, IPv6Address) else int(address)
    return str(hash((address.version, network)) % _ADDRESS_COUNTERS)


def _too_slow() -> TooSlowError:
    return TooSlowError(
        f"The request's body did not come within {BODY_S:.0f} seconds and at"
        f" {MIN_BYTES_PER_S:,} bytes a second.",
        hint="Send it at once; large models can be given as a run.",
    )


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"This request is larger than {limit:,} bytes.", hint="Ask for less at once, or give models as a run."
    )

"""Who may pass, and how much: authentication, and limits of size, duration, rate and concurrent requests."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import nullcontext
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ai_hub import metrics
from ai_hub.access import api_keys
from ai_hub.access.principal import UnauthenticatedError
from ai_hub.access.tokens import is_loopback
from ai_hub.api import observability
from ai_hub.api.errors import (
    MalformedError,
    OverloadedError,
    TooLargeError,
    TooManyRequestsError,
    TooSlowError,
    answer,
)
from ai_hub.api.http_protocol import BODY_COMPLETE, header
from ai_hub.api.paths import ONLINE, PAGE, UPLOAD, WATCHED
from ai_hub.concurrency import ConcurrencyLimiter, KeyLimitReachedError, LimitReachedError
from ai_hub.errors import AiHubError, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ai_hub.access.authenticator import Authenticator
    from ai_hub.access.principal import Principal
    from ai_hub.settings import ServiceSettings


#: Paths that need no key.
_OPEN: Final = frozenset(
    {
        *WATCHED,
        *("/docs", "/docs/oauth2-redirect", "/openapi.json"),
        *(f"/docs/static/{name}" for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon.png")),
        *(f"{PAGE}{path}" for path in ("", "/", "/page.css", "/page.js")),
    }
)
_BEARER: Final = "bearer "
#: Requests that may wait at once for a key to be loaded from the database or from the provider.
MAX_WAITING: Final = 64
#: Host headers that no other site can have: a page under another name that resolves to here is refused.
_HOST: Final = re.compile(rb"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
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


class Admission:
    """Middleware: sets `scope["state"]["principal"]` and passes a request on, or says why not.

    In this order: 403 to other machines where authentication is off, 413 to bodies that are too large, 401 to
    callers that are not known, 429 over the rate, 429 or 503 over the number of requests; while the body
    comes, 413 and 408. Whoever is refused takes no slot.
    """

    def __init__(self, app: ASGIApp, options: ServiceSettings, limits: Limits | None = None) -> None:
        self._app = app
        self._max_bytes = options.max_body_bytes
        self._max_upload_bytes = options.max_upload_bytes
        self._limits = limits or Limits(options)
        self._authentication = Authentication(self._limits.rates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        try:
            if self._limits.is_open:
                _check_loopback(scope)
            body = self._body_of(scope, receive, send)
            principal = None
            if scope["path"] not in _OPEN:
                principal = state["principal"] = await self._authentication.principal_of(scope)
            self._limits.rates.check(scope, principal)
            slot = self._limits.slots.acquire(scope["path"], principal)
        except AiHubError as error:
            await answer(error, scope)(scope, receive, send)
            return
        with nullcontext() if slot is None else slot:
            if body is None:
                await self._app(scope, receive, send)
            else:
                await self._pass_on(scope, body, send)

    def _body_of(self, scope: Scope, receive: Receive, send: Send) -> _Body | None:
        """The body, to be counted as it comes; None: it is here already.

        Raises:
            MalformedError: its announced length is no number.
            TooLargeError: it is announced to be too large.
        """
        is_upload = (scope["method"], scope["path"].rstrip("/")) == UPLOAD
        limit = self._max_upload_bytes if is_upload else self._max_bytes
        length = header(scope, b"content-length")
        if length is not None:
            if not length.isdigit():
                raise MalformedError(
                    "The header Content-Length is not a number.", hint="Leave it to your library."
                )
            if len(length) > len(str(limit)) or int(length) > limit:
                raise _too_large(limit)
            if scope["state"].get(BODY_COMPLETE):
                return None
        return _Body(scope["state"], receive, send, limit)

    async def _pass_on(self, scope: Scope, body: _Body, send: Send) -> None:
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if body.error is None:
                raise
        if body.error is not None and not body.is_answered:
            response = answer(body.error, scope)
            if isinstance(body.error, TooSlowError):
                response.headers["Connection"] = "close"  # the rest may never come
            await response(scope, body.receive, send)


def _check_loopback(scope: Scope) -> None:
    """Let requests of this machine pass, to a name that no other site has.

    Raises:
        ForbiddenError: it is another one.
    """
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    # no client: a Unix socket, through which a proxy may forward anybody
    is_from_loopback = is_loopback((scope.get("client") or ("", 0))[0])
    if not (is_from_loopback and hosts and all(_HOST.fullmatch(host) for host in hosts)):
        raise ForbiddenError(
            "AI_HUB_API_AUTH=off: this service answers requests of its own machine, to localhost, only.",
            hint="Leave AI_HUB_API_AUTH out and use keys (`ai-hub keys create`).",
        )


class Authentication:
    """Tells the caller of a request by its headers."""

    def __init__(self, rates: RateLimiter) -> None:
        """Count those without a valid key by address before they wait for anything."""
        self._rates = rates
        self._waiting = ConcurrencyLimiter(MAX_WAITING, per_key=MAX_WAITING)

    async def principal_of(self, scope: Scope) -> Principal:
        """The caller.

        Raises:
            UnauthenticatedError: it sends no valid key or token.
            TooManyRequestsError: too many of its address do not.
            OverloadedError: too many wait for keys to be loaded.
            ServiceDownError: its key cannot be loaded now.
        """
        sent = authorization = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                sent = sent or value
            elif name == b"authorization":
                authorization = authorization or value
        key, bearer = sent.decode("latin-1"), _bearer_of(authorization)
        authenticator: Authenticator = scope["app"].state.services.authenticator
        try:
            return self._from_cache(authenticator, key, bearer, scope) or await self._load(
                authenticator, key, bearer
            )
        except AiHubError:
            if (parsed := api_keys.parse(key or bearer)) is not None:
                scope["state"]["key_id"] = parsed.key_id
            raise

    def _from_cache(
        self, authenticator: Authenticator, key: str, bearer: str, scope: Scope
    ) -> Principal | None:
        """The caller if its key is cached; all others are counted by address before they wait for more."""
        try:
            principal = authenticator.from_cache(key, bearer)
        except UnauthenticatedError:
            self._rates.check_address(scope)
            raise
        if principal is None:
            self._rates.check_address(scope)
        return principal

    async def _load(self, authenticator: Authenticator, key: str, bearer: str) -> Principal:
        try:
            with self._waiting.hold("unknown keys"):
                return await authenticator.load(key, bearer)
        except LimitReachedError:
            raise OverloadedError(
                f"{self._waiting.limit} requests with keys that are not known yet are waiting.",
                hint="Try again in a second; a key that was known goes on meanwhile.",
            ) from None


def _bearer_of(authorization: bytes) -> str:
    text = authorization.decode("latin-1")
    return text[len(_BEARER) :].strip() if text.lower().startswith(_BEARER) else ""


class Limits:
    """What applies to the requests of all paths together."""

    def __init__(self, options: ServiceSettings) -> None:
        #: whether authentication is switched off
        self.is_open = options.auth == "off"
        self.rates = RateLimiter(options.rate_limit_per_s, options.unauthenticated_per_s)
        self.slots = RequestSlots(options.max_in_flight)
        self._max_bytes = options.max_body_bytes

    def known_caller(
        self, scope: Scope, headers: Mapping[bytes, bytes], size: int, authenticator: Authenticator
    ) -> Principal | None:
        """The caller of a request of `size` bytes, if it has a valid key that is cached.

        None: `Admission` must say what is wrong with it, or wait for the key.
        """
        key = headers.get(b"x-api-key")
        if size > self._max_bytes or key == b"":
            return None
        bearer = _bearer_of(headers.get(b"authorization", b"")) if key is None else ""
        try:
            if self.is_open:
                _check_loopback(scope)
            return authenticator.from_cache((key or b"").decode("latin-1"), bearer)
        except AiHubError:
            return None

    def slot(self, principal: Principal) -> Slot:
        """A slot for a request for features, to be held until it is answered; it is counted by its caller.

        Raises:
            TooManyRequestsError: the caller is over its rate, or holds as many as it may.
            OverloadedError: none is free.
        """
        self.rates.check_caller(principal)
        return self.slots.take("online", principal)


class RateLimiter:
    """Counts requests by caller and by client address, in this process."""

    def __init__(self, per_caller_s: int, per_address_s: int) -> None:
        self._callers = _Rate(per_caller_s)
        self._addresses = _Rate(per_address_s)
        self._watchers = _Rate(per_address_s)
        self._per_caller_s = per_caller_s

    def check(self, scope: Scope, principal: Principal | None) -> None:
        """Count a request by its caller (None: by its address); development has no limit.

        Raises:
            TooManyRequestsError: it is over the rate.
        """
        if principal is None:
            self.check_address(scope)
        else:
            self.check_caller(principal)

    def check_caller(self, principal: Principal) -> None:
        """Count a request by its caller.

        Raises:
            TooManyRequestsError: it is over the rate.
        """
        if not (principal.every_tenant or self._callers.take(principal.counted_as)):
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


class RequestSlots:
    """Limits concurrent requests, globally (503) and per caller to half of that (429).

    The online path has a limit of its own; health checks and metrics have none.
    """

    def __init__(self, limit: int) -> None:
        self.limiters = {
            group: ConcurrencyLimiter(limit, per_key=max(1, limit // 2)) for group in ("online", "other")
        }

    def acquire(self, path: str, principal: Principal | None) -> Slot | None:
        """A slot, to be held until the answer; None: the path needs none.

        Raises:
            OverloadedError: none is free.
            TooManyRequestsError: this caller holds as many as it may.
        """
        return None if path in WATCHED else self.take("online" if path == ONLINE else "other", principal)

    def take(self, group: str, principal: Principal | None) -> Slot:
        """A slot of a group of paths; raises as `acquire` does."""
        limiter = self.limiters[group]
        caller = "" if principal is None else principal.counted_as
        try:
            limiter.acquire(caller, exempt=principal is not None and principal.every_tenant)
        except LimitReachedError as reached:
            metrics.count(observability.REFUSED, (group,))
            if isinstance(reached, KeyLimitReachedError):
                name = "nobody known" if principal is None else principal.name
                raise TooManyRequestsError(
                    f"{limiter.per_key} requests of {name} are under way.",
                    hint="Wait for answers before you ask for more.",
                ) from None
            raise OverloadedError(
                f"{limiter.limit} requests are under way.", hint="Try again in a second, or run more workers."
            ) from None
        metrics.count(observability.IN_FLIGHT)
        return Slot(limiter, caller)


class Slot(NamedTuple):
    """One request under way."""

    limiter: ConcurrencyLimiter
    caller: str

    def __enter__(self) -> None:
        """Hold it already."""

    def __exit__(self, *_: object) -> None:
        """Let another one in."""
        self.limiter.release(self.caller)
        metrics.count(observability.IN_FLIGHT, amount=-1)


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

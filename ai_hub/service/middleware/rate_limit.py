"""No caller takes the service from the others, and nobody without a key takes anything from anyone."""

from __future__ import annotations

import time
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from ai_hub.service.errors import TooManyRequestsError, answer
from ai_hub.service.middleware.paths import WATCHED

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.access.principal import Principal

#: Counters for client addresses: many addresses share one, so that a flood from many takes no memory.
_ADDRESS_COUNTERS: Final = 4096
#: Keys after which those at rest are forgotten.
_REMEMBERED: Final = 10_000
#: Of a sum of intervals.
_ROUNDING: Final = 1e-9
#: One host has a whole network of these.
_IPV6_NETWORK_BITS: Final = 64


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

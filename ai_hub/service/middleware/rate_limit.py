"""No caller takes the service from the others, and nobody without a key takes anything from anyone."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from ai_hub.service.errors import TooManyRequestsError, answer, request_id_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ai_hub.access.principal import Principal

#: Counters for client addresses: many addresses share one, so that a flood from many takes no memory.
_ADDRESS_COUNTERS: Final = 4096
#: One host has a whole network of these.
_IPV6_NETWORK_BITS: Final = 64


class Limiter:
    """Counts by caller and by client address, in this process."""

    def __init__(self, per_caller_s: int, per_address_s: int) -> None:
        self._windows = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._per_caller = RateLimitItemPerSecond(per_caller_s)
        self._per_address = RateLimitItemPerSecond(per_address_s, namespace="ADDRESS")

    def check_caller(self, principal: Principal) -> None:
        """Count a request of a known caller.

        Raises:
            TooManyRequestsError: it was one too many.
        """
        if not self._windows.hit(self._per_caller, principal.identity or principal.name):
            raise TooManyRequestsError(
                f"{principal.name} may ask {self._per_caller.amount} times a second.",
                hint="Ask for many assets in one request, or spread your requests.",
            )

    def check_address(self, scope: Scope) -> None:
        """Count a request of nobody known.

        Raises:
            TooManyRequestsError: it was one too many.
        """
        if not self._windows.hit(self._per_address, _counter(scope)):
            raise TooManyRequestsError(
                "Too many requests without a valid key.", hint="Wait, and use a valid key."
            )


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
                await answer(error, request_id_of(scope))(scope, receive, send)
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

"""Circuit breakers: after failures in a row a server is not asked for a while."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import HALF_OPENED, OPENED, HalfOpenedState

from ai_hub.features.online import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from purgatory.service._async.circuitbreaker import AsyncCircuitBreaker

_log = structlog.get_logger(__name__)


class UnavailableError(Exception):
    """A server does not answer, or is not asked now; `reason` is for metrics."""

    def __init__(self, server: str, reason: str) -> None:
        self.server = server
        self.reason = reason
        super().__init__(f"{server}: {reason}")


class Breaker:
    """The breaker of one server. After the pause one request tries; others are refused meanwhile."""

    def __init__(self, server: str, pause_s: float) -> None:
        self.server = server
        #: set by `open_breaker`
        self.breaker: AsyncCircuitBreaker
        self._pause_s = pause_s
        self._opened_at = 0.0
        self._trying = 0

    @property
    def state(self) -> str:
        """`closed`, `half-opened` or `opened`."""
        return str(self.breaker.context.state)

    def is_inconclusive(self, _: BaseException) -> bool:
        """Whether a cancelled call is ignored; it counts as a failure only while half-open."""
        return self.state != HALF_OPENED

    def on_event(self, name: str, kind: str, event: Any) -> None:
        """Log and count a change of state."""
        if kind == "state_changed" and isinstance(event, ContextChanged):
            if event.state == OPENED:
                # the library measures the pause by the wall clock, which may be set back
                self._opened_at = time.monotonic()
            metrics.set_breaker(name, event.state)
            _log.warning("breaker.changed", server=name, state=event.state)

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Call the server in the block.

        Raises:
            UnavailableError: the breaker is open.
        """
        if self.state == OPENED and time.monotonic() - self._opened_at >= self._pause_s:
            self.breaker.context.set_state(HalfOpenedState())
        if self.state == OPENED or (self.state == HALF_OPENED and self._trying):
            raise UnavailableError(self.server, "breaker_open")
        self._trying += 1
        try:
            async with self.breaker:
                yield
        finally:
            self._trying -= 1


async def open_breaker(
    server: str, failures: int, pause_s: float, *, harmless: Sequence[type[BaseException]] = ()
) -> Breaker:
    """A closed breaker; `harmless` errors do not count as failures."""
    breaker = Breaker(server, pause_s)
    cancelled = (asyncio.CancelledError, breaker.is_inconclusive)
    factory = AsyncCircuitBreakerFactory(failures, pause_s, exclude=[cancelled, *harmless])
    factory.add_listener(breaker.on_event)
    metrics.set_breaker(server, "closed")
    breaker.breaker = await factory.get_breaker(server)
    return breaker

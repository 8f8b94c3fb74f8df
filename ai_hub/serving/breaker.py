"""Circuit breakers: a server that fails again and again is left alone for a while."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import HALF_OPENED, OPENED, HalfOpenedState

from ai_hub.serving import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from purgatory.service._async.circuitbreaker import AsyncCircuitBreaker

_log = structlog.get_logger(__name__)


class UnavailableError(Exception):
    """A server cannot be asked now; `reason` is a word for metrics."""

    def __init__(self, server: str, reason: str) -> None:
        self.server = server
        self.reason = reason
        super().__init__(f"{server}: {reason}")


class Breaker:
    """The breaker of one server: after the pause one request tries, the others do not wait for it."""

    def __init__(self, server: str, breaker: AsyncCircuitBreaker, pause_s: float) -> None:
        self.server = server
        self._breaker = breaker
        self._pause_s = pause_s
        self._opened_at = 0.0
        self._trying = 0

    @property
    def state(self) -> str:
        """`closed`, `half-opened` or `opened`."""
        return str(self._breaker.context.state)

    def note_opened(self) -> None:
        """The pause begins; the library measures it by the wall clock, which may be set back."""
        self._opened_at = time.monotonic()

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """Ask the server in the block.

        Raises:
            UnavailableError: it is left alone now.
        """
        if self.state == OPENED and time.monotonic() - self._opened_at >= self._pause_s:
            self._breaker.context.set_state(HalfOpenedState())
        if self.state == OPENED or (self.state == HALF_OPENED and self._trying):
            raise UnavailableError(self.server, "breaker_open")
        self._trying += 1
        try:
            async with self._breaker:
                yield
        finally:
            self._trying -= 1


async def open_breaker(
    server: str, failures: int, pause_s: float, *, harmless: Sequence[type[BaseException]] = ()
) -> Breaker:
    """A closed breaker; `harmless` are errors that say nothing against the server."""
    found: list[Breaker] = []

    def says_nothing(_: BaseException) -> bool:
        # a try that was given up has not shown that the server is back
        return not found or found[0].state != HALF_OPENED

    cancelled = (asyncio.CancelledError, says_nothing)
    factory = AsyncCircuitBreakerFactory(failures, pause_s, exclude=[cancelled, *harmless])

    def changed(name: str, what: str, event: Any) -> None:
        if what == "state_changed" and isinstance(event, ContextChanged):
            if event.state == OPENED and found:
                found[0].note_opened()
            metrics.note_breaker(name, event.state)
            _log.warning("breaker", server=name, state=event.state)

    factory.add_listener(changed)
    metrics.note_breaker(server, "closed")
    found.append(Breaker(server, await factory.get_breaker(server), pause_s))
    return found[0]

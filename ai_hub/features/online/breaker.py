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

from ai_hub.features.online import metrics

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

    def __init__(self, server: str, pause_s: float) -> None:
        self.server = server
        #: set by `open_breaker`, before anybody asks
        self.breaker: AsyncCircuitBreaker
        self._pause_s = pause_s
        self._opened_at = 0.0
        self._trying = 0

    @property
    def state(self) -> str:
        """`closed`, `half-opened` or `opened`."""
        return str(self.breaker.context.state)

    def says_nothing(self, _: BaseException) -> bool:
        """Whether a request that was given up tells nothing; a try has not shown that the server is back."""
        return self.state != HALF_OPENED

    def note(self, name: str, what: str, event: Any) -> None:
        """Something happened to the library's breaker."""
        if what == "state_changed" and isinstance(event, ContextChanged):
            if event.state == OPENED:
                # the library measures the pause by the wall clock, which may be set back
                self._opened_at = time.monotonic()
            metrics.note_breaker(name, event.state)
            _log.warning("breaker", server=name, state=event.state)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """Ask the server in the block.

        Raises:
            UnavailableError: it is left alone now.
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
    """A closed breaker; `harmless` are errors that say nothing against the server."""
    made = Breaker(server, pause_s)
    cancelled = (asyncio.CancelledError, made.says_nothing)
    factory = AsyncCircuitBreakerFactory(failures, pause_s, exclude=[cancelled, *harmless])
    factory.add_listener(made.note)
    metrics.note_breaker(server, "closed")
    made.breaker = await factory.get_breaker(server)
    return made

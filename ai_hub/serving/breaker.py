"""Circuit breakers: a server that fails again and again is left alone for a while."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import HALF_OPENED, OpenedState

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

    def __init__(self, server: str, breaker: AsyncCircuitBreaker) -> None:
        self.server = server
        self._breaker = breaker
        self._trying = 0

    @property
    def state(self) -> str:
        """`closed`, `half-opened` or `opened`."""
        return str(self._breaker.context.state)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """Ask the server in the block.

        Raises:
            UnavailableError: it is left alone now.
        """
        if self.state == HALF_OPENED and self._trying:
            raise UnavailableError(self.server, "breaker_open")
        try:
            self._breaker.context.handle_new_request()
        except OpenedState as error:
            error.with_traceback(None)  # the same one each time: it must not grow
            raise UnavailableError(self.server, "breaker_open") from None
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
    factory = AsyncCircuitBreakerFactory(failures, pause_s, exclude=[asyncio.CancelledError, *harmless])

    def changed(name: str, what: str, event: Any) -> None:
        if what == "state_changed" and isinstance(event, ContextChanged):
            metrics.note_breaker(name, event.state)
            _log.warning("breaker", server=name, state=event.state)

    factory.add_listener(changed)
    metrics.note_breaker(server, "closed")
    return Breaker(server, await factory.get_breaker(server))

"""Circuit breakers: after failures in a row a server is not asked for a while."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Gauge

if TYPE_CHECKING:
    from types import TracebackType

_log = structlog.get_logger(__name__)
_CLOSED, _HALF_OPENED, _OPENED = "closed", "half-opened", "opened"
_NUMBERS: Final = {_CLOSED: 0, _HALF_OPENED: 1, _OPENED: 2}
_STATE: Final = Gauge(
    "ai_hub_breaker_state",
    "State of a server's circuit breaker: 0 closed, 1 half open (one request tries), 2 open (not asked)",
    ["server"],
    multiprocess_mode="livemax",
)


class UnavailableError(Exception):
    """A server does not answer, or is not asked now; `reason` is for metrics."""

    def __init__(self, server: str, reason: str) -> None:
        self.server = server
        self.reason = reason
        super().__init__(f"{server}: {reason}")


class Breaker:
    """The breaker of one server, entered around each call. After the pause one call tries, no other.

    Our own, because every read enters it: a library for it took ten times as long.
    """

    def __init__(
        self, server: str, failures: int, pause_s: float, *, harmless: tuple[type[BaseException], ...] = ()
    ) -> None:
        """Open for `pause_s` after so many `failures` in a row; `harmless` errors are none."""
        self.server = server
        #: `closed`, `half-opened` or `opened`
        self.state = _CLOSED
        self._threshold = failures
        self._pause_s = pause_s
        self._harmless = harmless
        self._failures = 0
        #: by a clock that cannot be set back
        self._opened_at = 0.0
        self._calls = 0
        _STATE.labels(server).set(_NUMBERS[_CLOSED])

    def __enter__(self) -> None:
        """Begin a call.

        Raises:
            UnavailableError: the breaker is open.
        """
        if self.state != _CLOSED:
            if self.state == _OPENED and time.monotonic() - self._opened_at >= self._pause_s:
                self._change(_HALF_OPENED)
            if self.state == _OPENED or self._calls:
                raise UnavailableError(self.server, "breaker_open")
        self._calls += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the call; a cancelled one counts while half-open alone, as a failure."""
        self._calls -= 1
        if kind is None or issubclass(kind, self._harmless):
            self._failures = 0
            if self.state == _HALF_OPENED:
                self._change(_CLOSED)
        elif self.state == _HALF_OPENED:
            self._change(_OPENED)
        elif self.state == _CLOSED and not issubclass(kind, asyncio.CancelledError):
            self._failures += 1
            if self._failures >= self._threshold:
                self._change(_OPENED)

    def _change(self, state: str) -> None:
        self.state = state
        self._failures = 0
        if state == _OPENED:
            self._opened_at = time.monotonic()
        _STATE.labels(self.server).set(_NUMBERS[state])
        _log.warning("breaker.changed", server=self.server, state=state)

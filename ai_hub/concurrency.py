"""Limits of what runs at once, fair between tenants and callers, and breakers of servers that fail."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import OrderedDict, deque
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from prometheus_client import Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


class LimitReachedError(Exception):
    """Nothing more may be held."""


class KeyLimitReachedError(LimitReachedError):
    """Nothing more may be held by this key; others may."""


class ConcurrencyLimiter:
    """Limits how many slots are held at once, in all and by each key (a tenant or a caller)."""

    def __init__(self, limit: int, *, per_key: int | None = None) -> None:
        """Limit the slots to `limit`, and those of one key to `per_key`.

        Without `per_key`, a key may hold as many as are free, so one alone never gets more than half of them.

        Source: dynamic queue length thresholds (A. Choudhury, E. Hahne, IEEE/ACM Transactions on Networking
        6, 1998), with alpha = 1.
        """
        self.limit = limit
        self.per_key = per_key
        self._free = limit
        self._held: dict[str, int] = {}

    def acquire(self, key: str, *, exempt: bool = False) -> None:
        """Take a slot; an `exempt` key is limited by what is free alone.

        Raises:
            LimitReachedError: none is free.
            KeyLimitReachedError: this key holds as many as it may.
        """
        if self._free <= 0:
            raise LimitReachedError
        held = self._held.get(key, 0)
        if not exempt and held >= (self._free if self.per_key is None else self.per_key):
            raise KeyLimitReachedError
        self._free -= 1
        self._held[key] = held + 1

    def release(self, key: str) -> None:
        """Give a slot of this key back."""
        self._free += 1
        if self._held[key] > 1:
            self._held[key] -= 1
        else:  # keys come and go
            del self._held[key]

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold a slot in the block; raises as `acquire` does."""
        self.acquire(key)
        try:
            yield
        finally:
            self.release(key)


class RenewableTimeout:
    """A timeout of a block, which raises TimeoutError; `renew` makes it start anew."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)
        self._is_entered = False

    def renew(self) -> bool:
        """Start anew; False: it has just expired."""
        if self._timeout.expired():
            return False
        if self._is_entered:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)
        return True

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._is_entered = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_entered = False
        await self._timeout.__aexit__(kind, error, trace)


class FairSemaphore:
    """A semaphore that is round-robin over tenants, first in first out within one."""

    def __init__(self, value: int, *, max_waiting: int) -> None:
        """Let `value` in at once, and `max_waiting` wait."""
        self._value = value
        self._limiter = ConcurrencyLimiter(max_waiting)
        self._waiters: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, tenant: str) -> None:
        """Wait for the tenant's turn; `release` ends it.

        Raises:
            LimitReachedError: too many wait already.
        """
        if self._value:
            self._value -= 1
            return
        with self._limiter.hold(tenant):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(tenant, deque()).append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.cancelled():
                    self._remove(tenant, waiter)
                else:  # it was let in at the same moment
                    self.release()
                raise

    def release(self) -> None:
        """Let the next waiter in."""
        while self._waiters:
            tenant, queue = self._waiters.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._waiters[tenant] = queue
            if not waiter.done():  # or else it was cancelled, and has yet to notice
                waiter.set_result(None)
                return
        self._value += 1

    def _remove(self, tenant: str, waiter: asyncio.Future[None]) -> None:
        queue = self._waiters.get(tenant, deque())
        if waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiters[tenant]


T = TypeVar("T")
_NICENESS: Final = 10


# In a process beside this one anyio takes it away where the parent's is no file, and libraries import it
# as early as the call is read.
sys.modules.setdefault("__main__", ModuleType("__main__"))


def run_in_background(call: Callable[[], T]) -> T:
    """What a process does for another one that goes before it; on one core."""
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    # libraries read it when they are imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return call()


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

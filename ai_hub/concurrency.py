"""Who may use a server now, and who may wait for it: tenants take turns, and none can take every place."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class FullError(Exception):
    """There is no place for this tenant."""


class Places:
    """So many places; a tenant may hold as many as are free, so one alone never gets more than half of them.

    Source: dynamic queue length thresholds (A. Choudhury, E. Hahne, IEEE/ACM Transactions on Networking 6,
    1998), with alpha = 1.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, tenant: str) -> Iterator[None]:
        """Hold a place in the block.

        Raises:
            FullError: there is none for this tenant.
        """
        if self._held[tenant] >= self._free:
            if not self._held[tenant]:
                del self._held[tenant]
            raise FullError
        self._free -= 1
        self._held[tenant] += 1
        try:
            yield
        finally:
            self._free += 1
            self._held[tenant] -= 1
            if not self._held[tenant]:  # tenants come and go
                del self._held[tenant]


class Patience:
    """How long to wait in a block, which raises TimeoutError then; whoever joins makes it as long again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(seconds)
        self._is_waiting = False

    def renew(self) -> bool:
        """Begin anew; False: it has just ended."""
        if self._limit.expired():
            return False
        if self._is_waiting:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
        return True

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._is_waiting = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_waiting = False
        await self._limit.__aexit__(kind, error, trace)


class Turns:
    """So many at once. Of those that wait, the tenants are served one after the other, each in its order."""

    def __init__(self, at_once: int, may_wait: int) -> None:
        self._left = at_once
        self._places = Places(may_wait)
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, tenant: str) -> None:
        """Wait for one's turn; who has had it calls `give_back`.

        Raises:
            FullError: too many wait already.
        """
        if self._left:
            self._left -= 1
            return
        with self._places.held(tenant):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(tenant, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._forget(tenant, turn)
                else:  # it came at the same moment
                    self.give_back()
                raise

    def give_back(self) -> None:
        """The next one's turn."""
        while self._waiting:
            tenant, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[tenant] = queue
            if not turn.done():  # or else it was cancelled, and has yet to notice
                turn.set_result(None)
                return
        self._left += 1

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[tenant]

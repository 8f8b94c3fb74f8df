"""Which assets a tenant has, and their time zones: as they were read last, for when nothing can be read.

A list is read beside a computation for its tenant, or for a hint; answers that Redis has need none.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import structlog

from ai_hub.features.online.breaker import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.features.online.database import Connection, Database

_log = structlog.get_logger(__name__)
_HOLDS_S = 600.0
_RETRY_S = 5.0
_MOST_OF_TENANT = 50_000
#: Names on either side that a wrong one is compared with, and seconds that a hint is worth.
_NEIGHBOURS = 20
_HINT_S = 0.25
#: Of all tenants together.
_MOST_ASSETS = 200_000
_QUERY = "SELECT asset_id, timezone FROM assets WHERE tenant_id = %s ORDER BY asset_id LIMIT %s"


class _Known(NamedTuple):
    until: float
    zones: Mapping[str, str]
    #: sorted
    names: Sequence[str]


class Assets:
    """Time zone of each asset, by tenant; read in the background."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: those that were read longest ago come first
        self._known: dict[str, _Known] = {}
        self._count = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def zones(self, tenant: str) -> Mapping[str, str]:
        """What is known now."""
        known = self._known.get(tenant)
        return known.zones if known else {}

    def note(self, tenant: str) -> None:
        """Read the tenant's assets unless that was done a short while ago."""
        known = self._known.get(tenant)
        if (known is None or time.monotonic() > known.until) and tenant not in self._tasks:
            task = asyncio.create_task(self._read(tenant), name="assets")
            self._tasks[tenant] = task
            task.add_done_callback(lambda _: self._tasks.pop(tenant, None))

    async def nearest(self, tenant: str, asset: str) -> str | None:
        """The asset that a caller may have meant; None: nothing is known that is like it."""
        self.note(tenant)
        if tenant not in self._known and (task := self._tasks.get(tenant)) is not None:
            await asyncio.wait([task], timeout=_HINT_S)
        known = self._known.get(tenant)
        if known is None:
            return None
        # to compare with every one of thousands would keep everybody else waiting
        place = bisect(known.names, asset)
        neighbours = known.names[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS]
        return next(iter(get_close_matches(asset, neighbours, n=1)), None)

    async def aclose(self) -> None:
        """Give up what is being read."""
        for task in list(self._tasks.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self, tenant: str) -> None:
        async def work(connection: Connection) -> dict[str, str]:
            cursor = await connection.execute(_QUERY, [tenant, _MOST_OF_TENANT], prepare=True)
            return {str(asset): str(zone) for asset, zone in await cursor.fetchall()}

        holds, found = _RETRY_S, self.zones(tenant)
        try:
            async with self._database.turn(tenant):
                found = await self._database.run(tenant, work)
            holds = _HOLDS_S
        except UnavailableError:
            pass
        except psycopg.Error:
            _log.exception("assets_not_read")
        self._forget(tenant)
        self._known[tenant] = _Known(time.monotonic() + holds, found, sorted(found))
        self._count += len(found) + 1
        while self._count > _MOST_ASSETS and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, tenant: str) -> None:
        known = self._known.pop(tenant, None)
        self._count -= len(known.names) + 1 if known else 0

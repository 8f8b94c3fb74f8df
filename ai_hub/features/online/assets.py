"""A cache of tenants' assets and their time zones, for hints and for when the database is down.

A tenant's list is read beside a load of its rows, or for a hint; answers from Redis need none.
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
_TTL_S = 600.0
_RETRY_S = 5.0
_MAX_OF_TENANT = 50_000
#: Names on either side, in order, that a wrong one is compared with.
_NEIGHBOURS = 20
#: Seconds to wait for the list.
_HINT_S = 0.25
#: Capacity, of all tenants together.
_CAPACITY = 200_000
_QUERY = "SELECT asset_id, timezone FROM assets WHERE tenant_id = %s ORDER BY asset_id LIMIT %s"


class _TenantAssets(NamedTuple):
    until: float
    zones: Mapping[str, str]
    #: sorted
    names: Sequence[str]


class AssetDirectory:
    """Time zone of each asset, by tenant; read in the background."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: oldest first
        self._tenants: dict[str, _TenantAssets] = {}
        self._count = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def zones(self, tenant: str) -> Mapping[str, str]:
        """Time zone of each of the tenant's assets, as far as it was read."""
        known = self._tenants.get(tenant)
        return known.zones if known else {}

    def refresh(self, tenant: str) -> None:
        """Begin to read the tenant's assets, unless they were read within ten minutes."""
        known = self._tenants.get(tenant)
        if (known is None or time.monotonic() > known.until) and tenant not in self._tasks:
            task = asyncio.create_task(self._read(tenant), name="assets")
            self._tasks[tenant] = task
            task.add_done_callback(lambda _: self._tasks.pop(tenant, None))

    async def nearest(self, tenant: str, asset: str) -> str | None:
        """The asset whose name is most like `asset`; None: there is none, or it is not known yet."""
        self.refresh(tenant)
        if tenant not in self._tenants and (task := self._tasks.get(tenant)) is not None:
            await asyncio.wait([task], timeout=_HINT_S)
        known = self._tenants.get(tenant)
        if known is None:
            return None
        # comparing with thousands of names would block the event loop
        index = bisect(known.names, asset)
        neighbours = known.names[max(0, index - _NEIGHBOURS) : index + _NEIGHBOURS]
        return next(iter(get_close_matches(asset, neighbours, n=1)), None)

    async def aclose(self) -> None:
        """Cancel what is being read."""
        for task in list(self._tasks.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self, tenant: str) -> None:
        async def work(connection: Connection) -> dict[str, str]:
            cursor = await connection.execute(_QUERY, [tenant, _MAX_OF_TENANT], prepare=True)
            return {str(asset): str(zone) for asset, zone in await cursor.fetchall()}

        ttl, zones = _RETRY_S, self.zones(tenant)
        try:
            async with self._database.slot(tenant):
                zones = await self._database.run(tenant, work)
            ttl = _TTL_S
        except UnavailableError:
            pass
        except psycopg.Error:
            _log.exception("assets.read_failed")
        self._remove(tenant)
        self._tenants[tenant] = _TenantAssets(time.monotonic() + ttl, zones, sorted(zones))
        self._count += len(zones) + 1
        while self._count > _CAPACITY and len(self._tenants) > 1:
            self._remove(next(iter(self._tenants)))

    def _remove(self, tenant: str) -> None:
        known = self._tenants.pop(tenant, None)
        self._count -= len(known.names) + 1 if known else 0

"""A sample of the rows that are served, in `served_features`, to be compared with history, see skew.py."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import anyio.to_thread
import structlog
from prometheus_client import Counter
from psycopg.types.json import Jsonb

from ai_hub.db.transactions import transaction
from ai_hub.features.online.query import KEYS
from ai_hub.times import from_nanos
from feast_plugins.online import encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ai_hub.features.online.query import Query
    from ai_hub.features.online.rows import CachedRows
    from ai_hub.settings import Settings

_log = structlog.get_logger(__name__)
_LOST: Final = Counter("ai_hub_served_features_lost", "Samples of served features that were not written")
#: Seconds from a sample until it is written with those that came meanwhile, and the most there may be.
_FLUSH_S: Final = 10.0
_MOST: Final = 100
#: Seconds that a service which stops waits for what is waiting.
_CLOSE_S: Final = 5.0
#: Days after which what nobody compared goes.
_KEPT_DAYS: Final = 7
_WRITE: Final = """
INSERT INTO served_features (tenant_id, asset_id, view_name, event_timestamp, served_at, features)
VALUES (%s, %s, %s, %s, %s, %s)
"""
_DELETE_OLD: Final = f"DELETE FROM served_features WHERE served_at < now() - INTERVAL '{_KEPT_DAYS} days'"  # noqa: S608


class _Sample(NamedTuple):
    """Rows of an asset as they were served, one a view."""

    tenant: str
    asset: str
    served_at: datetime
    query: Query
    cells: Sequence[bytes | None]
    #: event time (ns) by view; None: it is not compared
    times: Sequence[int | None]


class Sampler:
    """Draws a share of requests, and writes one asset of each behind the answers."""

    def __init__(self, settings: Settings, rate: float) -> None:
        """Draw requests with the probability `rate`, which is above 0."""
        self._settings = settings
        self._rate = rate
        self._waiting: list[_Sample] = []
        self._task: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()
        #: requests until the next one that is drawn
        self._left = self._gap()

    def offer(self, rows: CachedRows, tenant: str, assets: Sequence[str], served_at: datetime) -> None:
        """Take a sample of the rows of a request, or in most cases not."""
        self._left -= 1
        if self._left > 0:
            return
        self._left = self._gap()
        if len(self._waiting) >= _MOST:
            _LOST.inc()
            return
        asset = random.randrange(len(assets))  # noqa: S311  # no secret
        times = tuple(_compared_time(rows, view, asset) for view in range(len(rows.query.views)))
        if any(time is not None for time in times):
            cells = tuple(rows.assets[asset].cells)
            self._waiting.append(_Sample(tenant, assets[asset], served_at, rows.query, cells, times))
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._write_later(), name="served features")

    async def aclose(self) -> None:
        """Write what is waiting; what takes too long is lost."""
        self._is_closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_CLOSE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        _LOST.inc(len(self._waiting))
        self._waiting = []

    def _gap(self) -> int:
        """Draw how many requests there are from one that is drawn to the next."""
        return 1 if self._rate >= 1 else 1 + int(math.log(1 - random.random()) / math.log1p(-self._rate))  # noqa: S311

    async def _write_later(self) -> None:
        while self._waiting:  # some may come during a write
            with anyio.move_on_after(_FLUSH_S):
                await self._is_closing.wait()
            await self._write()

    async def _write(self) -> None:
        samples, self._waiting = self._waiting, []
        by_tenant: dict[str, list[_Sample]] = defaultdict(list)
        for each in samples:
            by_tenant[each.tenant].append(each)
        while by_tenant:
            tenant, of_tenant = next(iter(by_tenant.items()))
            try:
                await anyio.to_thread.run_sync(self._insert, tenant, of_tenant, abandon_on_cancel=True)
            except asyncio.CancelledError:
                _LOST.inc(sum(map(len, by_tenant.values())))
                raise
            except Exception as error:  # noqa: BLE001  # a sample is worth no trouble
                _LOST.inc(len(of_tenant))
                _log.warning(
                    "served_features.not_written", tenant=tenant, reason=str(error).partition("\n")[0]
                )
            del by_tenant[tenant]

    def _insert(self, tenant: str, samples: Sequence[_Sample]) -> None:
        rows = [row for each in samples for row in _rows(each)]
        with transaction(self._settings, tenant) as connection, connection.cursor() as cursor:
            cursor.execute(_DELETE_OLD)
            cursor.executemany(_WRITE, rows)


def _compared_time(rows: CachedRows, view: int, asset: int) -> int | None:
    """Event time of a row of an asset that was served as it is; None: there is none."""
    served = rows.assets[asset]
    has_none = (served.lost | served.times.without_row | served.times.too_old) >> view & 1
    is_of_asset = set(rows.query.views[view].stored.view.join_keys) == set(KEYS)
    return None if has_none or not is_of_asset else rows.time(view, asset)


def _rows(sample: _Sample) -> Iterator[tuple[Any, ...]]:
    for view, time, columns in zip(sample.query.views, sample.times, sample.query.columns, strict=True):
        if time is not None:
            features = {
                name: plain(encoding.python_values([sample.cells[index] or b""], kind)[0])
                for index, name, kind in columns.all
            }
            yield (
                *(sample.tenant, sample.asset, view.stored.view.name, from_nanos(time), sample.served_at),
                Jsonb(features),
            )


def plain(value: Any) -> Any:
    """As JSON has it; what it has no form for is text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)

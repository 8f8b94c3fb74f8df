"""Stored readings of one asset as arrays, a bounded part at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ai_hub.ingest.cadence import BLOCK, Micros
from ai_hub.ingest.detect import to_instant, to_micros

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

#: Readings fetched at once.
PAGE_ROWS = 20_000
# What the server counts timestamps from.
_SERVER_EPOCH = 946_684_800_000_000


class Edge(NamedTuple):
    """The reading next to a range."""

    at: int
    value: float


class Series:
    """The stored readings of one asset of one tenant."""

    def __init__(self, connection: Connection[Any], tenant: str, asset_id: str) -> None:
        self._connection = connection
        self._key = {"tenant": tenant, "asset": asset_id}

    def before(self, at: int) -> Edge | None:
        """The last reading before an instant."""
        return self._edge(
            'SELECT "timestamp", value FROM timeseries_data WHERE tenant_id = %(tenant)s'
            ' AND asset_id = %(asset)s AND "timestamp" < %(at)s ORDER BY "timestamp" DESC LIMIT 1',
            at,
        )

    def since(self, at: int) -> Edge | None:
        """The first reading from an instant on."""
        return self._edge(
            'SELECT "timestamp", value FROM timeseries_data WHERE tenant_id = %(tenant)s'
            ' AND asset_id = %(asset)s AND "timestamp" >= %(at)s ORDER BY "timestamp" LIMIT 1',
            at,
        )

    def parts(self, start: int, end: int) -> Iterator[tuple[Micros, npt.NDArray[np.float64]]]:
        """Readings of [start, end) in order of time, in parts that cut no block."""
        held: list[tuple[Micros, npt.NDArray[np.float64]]] = []
        while True:
            times, values = self._page(start, end)
            held.append((times, values))
            is_last = len(times) < PAGE_ROWS
            # A block that is not known to be over stays for the next part.
            cut = len(times) if is_last else int(np.searchsorted(times // BLOCK, times[-1] // BLOCK))
            if is_last or cut:
                whole = [*held[:-1], (times[:cut], values[:cut])]
                yield np.concatenate([t for t, _ in whole]), np.concatenate([v for _, v in whole])
                held = [(times[cut:], values[cut:])]
            if is_last:
                return
            start = int(times[-1]) + 1

    def _page(self, start: int, end: int) -> tuple[Micros, npt.NDArray[np.float64]]:
        """Two byte strings instead of rows: on the embedded server that is six times as fast."""
        row = self._connection.execute(
            "SELECT string_agg(timestamptz_send(at), ''::bytea ORDER BY at),"
            " string_agg(float8send(value), ''::bytea ORDER BY at)"
            ' FROM (SELECT "timestamp" AS at, value FROM timeseries_data WHERE tenant_id = %(tenant)s'
            ' AND asset_id = %(asset)s AND "timestamp" >= %(start)s AND "timestamp" < %(end)s'
            ' ORDER BY "timestamp" LIMIT %(limit)s) AS page',
            {**self._key, "start": to_instant(start), "end": to_instant(end), "limit": PAGE_ROWS},
            binary=True,
        ).fetchone()
        times, values = (column or b"" for column in row or (b"", b""))
        return (
            np.frombuffer(times, dtype=">i8").astype(np.int64) + _SERVER_EPOCH,
            np.frombuffer(values, dtype=">f8").astype(np.float64),
        )

    def _edge(self, query: Any, at: int) -> Edge | None:
        row = self._connection.execute(query, {**self._key, "at": to_instant(at)}).fetchone()
        return None if row is None else Edge(to_micros(row[0]), row[1])

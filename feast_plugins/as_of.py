"""As-of join: the newest feature row at or before each entity row, optionally as it was known by then."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from feast_plugins.postgres_reads import ViewRead

    Times = NDArray[np.datetime64]
    Numbers = NDArray[np.int64]


def newest_rows(
    entities: pa.Table,
    times: pd.Series[pd.Timestamp],
    rows: pa.Table,
    read: ViewRead,
    *,
    as_known: bool = False,
) -> pa.Array:
    """Position in `rows` of the answer to each entity row, null where there is none within the TTL.

    Of rows with equal key and time the one created last wins. With `as_known`, a row counts for entity rows
    from the time it was created until the time it was superseded (see `ViewRead.superseded`).
    """
    if rows.num_rows == 0:
        return pa.nulls(entities.num_rows, pa.int64())
    left_keys, right_keys = _key_codes(entities, rows, read.keys)
    event = _times(rows, read.time)
    created = event if read.created is None else _times(rows, read.created)
    if as_known:
        ended = None if read.superseded is None else _times(rows, read.superseded)
        since, keys, found = _steps(*_with_deletions(right_keys, event, created, ended))
    else:
        order = np.lexsort((created, event))
        since, keys, found = event[order], right_keys[order], order
    at = times.dt.tz_localize(None).to_numpy()
    left = pd.DataFrame({"time": at, "key": left_keys, "row": range(entities.num_rows)})
    merged = pd.merge_asof(
        left.dropna(subset=["time"]).sort_values("time", kind="stable"),
        pd.DataFrame({"time": since, "key": keys, "found": found}),
        on="time",
        by="key",
    ).set_index("row")["found"]
    answers = merged.reindex(range(entities.num_rows)).fillna(-1).to_numpy(np.int64)
    missing = answers < 0
    if read.ttl is not None:
        missing |= at - event[answers] > np.timedelta64(read.ttl)
    return pa.array(answers, mask=missing)


def _with_deletions(
    keys: Numbers, event: Times, created: Times, ended: Times | None
) -> tuple[Numbers, Times, Times, NDArray[np.bool_]]:
    """The rows, and behind them one marked as a deletion for each that ended without a successor."""
    deleted = np.zeros(len(keys), bool)
    if ended is None:
        return keys, event, created, deleted
    over = np.flatnonzero(~np.isnat(ended))
    successors = pd.MultiIndex.from_arrays([keys, event, created])
    over = over[~pd.MultiIndex.from_arrays([keys[over], event[over], ended[over]]).isin(successors)]
    return (
        np.r_[keys, keys[over]],
        np.r_[event, event[over]],
        np.r_[created, ended[over]],
        np.r_[deleted, np.ones(len(over), bool)],
    )


def _steps(
    keys: Numbers, event: Times, created: Times, deleted: NDArray[np.bool_]
) -> tuple[Times, Numbers, Numbers]:
    """When the best row of each key changes: since when, key, and position of the row (-1: none).

    A row is available from its event time or its creation, whichever is later. The best of the available
    ones is the running maximum of (event, created) in the order they become available.
    """
    order = np.lexsort((created, event))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    available = np.maximum(event, created)
    by_key = np.lexsort((rank, available, keys))
    by_key = by_key[~np.isnat(available[by_key])]  # a row without a time of creation was never known
    key = keys[by_key]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.array([], np.int64)
    # lifting each key's ranks above those of the keys before makes one running maximum of all of them
    lift = np.repeat(np.arange(len(starts)) * len(order), np.diff(np.r_[starts, len(key)]))
    best = order[np.maximum.accumulate(rank[by_key] + lift) - lift]
    for start in starts[np.logical_or.reduceat(deleted[by_key], starts)] if len(starts) else ():
        part = slice(start, start + np.searchsorted(key[start:], key[start], side="right"))
        best[part] = _survivors(by_key[part], event, deleted)
    sequence = np.argsort(available[by_key], kind="stable")
    taken = by_key[sequence]
    return available[taken], keys[taken], best[sequence]


def _survivors(positions: Numbers, event: Times, deleted: NDArray[np.bool_]) -> list[int]:
    """Newest row that is not deleted, after each version of one key, in the order they became available."""
    newest: list[int] = []
    state: dict[int, int] = {}
    times: list[int] = []  # a heap, of negated times; deleted ones leave it when they come up
    for position in positions.tolist():
        time = int(event[position].astype(np.int64))
        state[time] = -1 if deleted[position] else position
        if not deleted[position]:
            heapq.heappush(times, -time)
        while times and state[-times[0]] < 0:
            heapq.heappop(times)
        newest.append(state[-times[0]] if times else -1)
    return newest


def _times(rows: pa.Table, column: str) -> Times:
    found: Times = rows[column].cast(pa.timestamp("us")).to_numpy()
    return found


def _key_codes(entities: pa.Table, rows: pa.Table, keys: Mapping[str, str]) -> tuple[Numbers, Numbers]:
    """One number a key, equal in both tables exactly where every part is; a missing part equals nothing."""
    count = entities.num_rows
    codes = np.zeros(count + rows.num_rows, np.int64)
    missing = np.zeros(len(codes), bool)
    for number, (name, column) in enumerate(keys.items()):
        parts = [*entities[name].cast(rows[column].type).chunks, *rows[column].chunks]
        encoded = pa.chunked_array(parts, rows[column].type).combine_chunks().dictionary_encode()
        if number > 1:  # keeps the product of the numbers of values small
            codes = np.unique(codes, return_inverse=True)[1]
        codes = codes * len(encoded.dictionary) + encoded.indices.fill_null(0).to_numpy()
        missing |= encoded.indices.is_null().to_numpy(zero_copy_only=False)
    codes[missing] = -1
    left, right = codes[:count], codes[count:]
    return left, np.where(right < 0, -2, right)

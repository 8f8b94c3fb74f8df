"""When the best known row of each key changes, as versions of rows are created and superseded."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from feast_plugins.history.times import NO_TIME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Flags = NDArray[np.bool_]


def with_deletions(
    keys: Numbers, event: Numbers, created: Numbers, ended: Numbers | None
) -> tuple[Numbers, Numbers, Numbers, Flags]:
    """The rows, and behind them one marked as a deletion for each that ended without a successor."""
    deleted = np.zeros(len(keys), bool)
    if ended is None:
        return keys, event, created, deleted
    over = np.flatnonzero(ended != NO_TIME)
    successors = pd.MultiIndex.from_arrays([keys, event, created])
    over = over[~pd.MultiIndex.from_arrays([keys[over], event[over], ended[over]]).isin(successors)]
    return (
        np.r_[keys, keys[over]],
        np.r_[event, event[over]],
        np.r_[created, ended[over]],
        np.r_[deleted, np.ones(len(over), bool)],
    )


def steps(
    keys: Numbers, event: Numbers, created: Numbers, deleted: Flags
) -> tuple[Numbers, Numbers, Numbers]:
    """When the best row of each key changes: since when, key, and position of the row (-1: none).

    A row is available from its event time or its creation, whichever is later. The best of the available
    ones is the running maximum of (event, created) in the order they become available.
    """
    order = np.lexsort((created, event))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    available = np.maximum(event, created)
    by_key = np.lexsort((rank, available, keys))
    by_key = by_key[created[by_key] != NO_TIME]  # a row without a time of creation was never known
    key = keys[by_key]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.array([], np.int64)
    # lifting each key's ranks above those of the keys before makes one running maximum of all of them
    lift = np.repeat(np.arange(len(starts)) * len(order), np.diff(np.r_[starts, len(key)]))
    best = order[np.maximum.accumulate(rank[by_key] + lift) - lift]
    for start in starts[np.logical_or.reduceat(deleted[by_key], starts)] if len(starts) else ():
        part = slice(start, start + np.searchsorted(key[start:], key[start], side="right"))
        best[part] = _survivors(by_key[part], event, deleted)
    return available[by_key], key, best


def _survivors(positions: Numbers, event: Numbers, deleted: Flags) -> list[int]:
    """Newest row that is not deleted, after each version of one key, in the order they became available."""
    newest: list[int] = []
    state: dict[int, int] = {}
    times: list[int] = []  # a heap, of negated times; deleted ones leave it when they come up
    for position in positions.tolist():
        time = int(event[position])
        state[time] = -1 if deleted[position] else position
        if not deleted[position]:
            heapq.heappush(times, -time)
        while times and state[-times[0]] < 0:
            heapq.heappop(times)
        newest.append(state[-times[0]] if times else -1)
    return newest

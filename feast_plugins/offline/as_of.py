"""As-of join of whole columns: the newest feature row at or before each entity row.

Join keys are numbered (`KeySpace`), key number and time become one integer (`SortKey`), the feature rows are
sorted by it once, and each entity row is located by binary search. Times are microseconds since 1970 in UTC.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Flags = NDArray[np.bool_]
    from feast_plugins.offline.views import ViewRows


#: A missing time.
NO_TIME = np.iinfo(np.int64).min


def microseconds(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds since 1970 (UTC) of Arrow timestamps; `NO_TIME` for null."""
    numbers = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())
    values: NDArray[np.int64] = numbers.fill_null(NO_TIME).to_numpy()
    return values


#: Up to this many combinations of key columns are numbered by a table, which is faster than a search.
_TABLE = 1 << 22
UNKNOWN = -1


class KeySpace:
    """Numbers 0 … n-1 of the distinct keys of some rows; equal exactly where every key column is."""

    def __init__(self, columns: Sequence[pa.ChunkedArray], length: int) -> None:
        """Number the keys of `length` rows by their key columns; without columns all have the same key."""
        self._levels: list[_Level] = []
        numbers, count = None, 1
        for column in columns:
            level = _Level(column.unique().drop_null(), count)
            numbers = level.learn(numbers, column)
            count = level.count
            self._levels.append(level)
        #: key number of each row; `UNKNOWN` where a key column is null, which equals nothing
        self.rows: Numbers = np.zeros(length, np.int64) if numbers is None else numbers
        self.count = count

    def find(self, columns: Sequence[pa.Array | pa.ChunkedArray], length: int) -> Numbers:
        """Key numbers of `length` other rows, `UNKNOWN` for a key that is not in this space."""
        numbers = None
        for level, column in zip(self._levels, columns, strict=True):
            numbers = level.find(numbers, column)
        return np.zeros(length, np.int64) if numbers is None else numbers


class _Level:
    """Adds one key column to the keys numbered so far."""

    def __init__(self, values: pa.Array, prefix_count: int) -> None:
        self._values = values
        self._combination_count = prefix_count * len(values)
        self._distinct: Numbers = np.array([], np.int64)
        self._table: Numbers | None = None
        self.count = 0

    def learn(self, prefixes: Numbers | None, column: pa.ChunkedArray) -> Numbers:
        """Number the combinations that occur in `prefixes` (key numbers so far) and `column`."""
        combined = self._combine(prefixes, column)
        if prefixes is None:  # the first key column: every value occurs
            self.count = len(self._values)
            self._distinct = np.arange(self.count)
        else:
            distinct = np.unique(combined)
            self._distinct = distinct[distinct >= 0]
            self.count = len(self._distinct)
            if self._combination_count <= _TABLE:
                # the last entry is that of `UNKNOWN` itself
                self._table = np.full(self._combination_count + 1, UNKNOWN)
                self._table[self._distinct] = np.arange(self.count)
        return self._number(prefixes, combined)

    def find(self, prefixes: Numbers | None, column: pa.Array | pa.ChunkedArray) -> Numbers:
        """Numbers of combinations, `UNKNOWN` for one that `learn` has not numbered."""
        return self._number(prefixes, self._combine(prefixes, column))

    def _combine(self, prefixes: Numbers | None, column: pa.Array | pa.ChunkedArray) -> Numbers:
        indexes = pc.index_in(column, value_set=self._values).fill_null(UNKNOWN)
        numbers: Numbers = indexes.to_numpy().astype(np.int64)
        if prefixes is None:
            return numbers
        return np.where((numbers < 0) | (prefixes < 0), UNKNOWN, prefixes * len(self._values) + numbers)

    def _number(self, prefixes: Numbers | None, combined: Numbers) -> Numbers:
        if prefixes is None:
            return combined
        if self._table is not None:
            return self._table[combined]
        if not self.count:
            return np.full(len(combined), UNKNOWN)
        positions = np.searchsorted(self._distinct, combined)
        positions[positions == self.count] = 0
        return np.where(self._distinct[positions] == combined, positions, UNKNOWN)


_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SortKey:
    """Composite sort key: key number * `width` + offset of the time.

    The first time of the rows has offset 1, the last `width` - 1, and every earlier time 0.
    """

    first: int
    width: int
    #: distinct times in order, whose ranks replace offsets where the range of times is too large; else None
    ranks: Numbers | None = None

    @classmethod
    def of(cls, count: int, *times: Numbers) -> Self:
        """Sort key for key numbers -1 … `count` - 1 and the times of some rows."""
        arrays = [array for array in times if len(array)]
        if not arrays:
            return cls(0, 2)
        first, last = int(min(array.min() for array in arrays)), int(max(array.max() for array in arrays))
        if (last - first + 2) * (count + 1) < _LARGEST:
            return cls(first, last - first + 2)
        ranks = np.unique(np.concatenate(arrays))
        return cls(0, len(ranks) + 1, ranks)

    def joint(self, keys: Numbers, times: Numbers) -> Numbers:
        """Sort keys of key numbers and times; a time between two of the rows' counts as the earlier."""
        if self.ranks is not None:
            within = np.searchsorted(self.ranks, times, side="right")
        else:
            origin = self.first - 1
            within = np.clip(times, origin, origin + self.width - 1) - origin
        return keys * self.width + within

    def split(self, joint: Numbers) -> tuple[Numbers, Numbers]:
        """Key numbers and times of sort keys, which must be those of rows."""
        keys, within = np.divmod(joint, self.width)
        return keys, self.first - 1 + within if self.ranks is None else self.ranks[within - 1]


def with_deletions(
    keys: Numbers, event: Numbers, created: Numbers, ended: Numbers | None
) -> tuple[Numbers, Numbers, Numbers, Flags]:
    """Append a deletion marker for each version that ended without a successor.

    Returns keys, event times, creation times and, per row, whether it is a deletion marker.
    """
    deleted = np.zeros(len(keys), bool)
    if ended is None:
        return keys, event, created, deleted
    ended_rows = np.flatnonzero(ended != NO_TIME)
    successors = pd.MultiIndex.from_arrays([keys, event, created])
    ended_rows = ended_rows[
        ~pd.MultiIndex.from_arrays([keys[ended_rows], event[ended_rows], ended[ended_rows]]).isin(successors)
    ]
    return (
        np.r_[keys, keys[ended_rows]],
        np.r_[event, event[ended_rows]],
        np.r_[created, ended[ended_rows]],
        np.r_[deleted, np.ones(len(ended_rows), bool)],
    )


def steps(
    keys: Numbers, event: Numbers, created: Numbers, deleted: Flags
) -> tuple[Numbers, Numbers, Numbers]:
    """Times at which the newest available row of a key changes, the keys, and the rows' positions (-1: none).

    A row is available from its event time or its creation, whichever is later. The newest available row is
    the running maximum of (event, created) in the order in which rows become available.
    """
    order = np.lexsort((created, event))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    available = np.maximum(event, created)
    by_key = np.lexsort((rank, available, keys))
    by_key = by_key[created[by_key] != NO_TIME]  # a row without a creation time is never available
    key = keys[by_key]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.array([], np.int64)
    # each key's ranks are lifted above those of earlier keys, so that one running maximum serves all keys
    lift = np.repeat(np.arange(len(starts)) * len(order), np.diff(np.r_[starts, len(key)]))
    best = order[np.maximum.accumulate(rank[by_key] + lift) - lift]
    for start in starts[np.logical_or.reduceat(deleted[by_key], starts)] if len(starts) else ():
        key_rows = slice(start, start + np.searchsorted(key[start:], key[start], side="right"))
        best[key_rows] = _survivors(by_key[key_rows], event, deleted)
    return available[by_key], key, best


def _survivors(positions: Numbers, event: Numbers, deleted: Flags) -> list[int]:
    """Newest row that is not deleted after each version of one key, in the order of availability."""
    newest: list[int] = []
    state: dict[int, int] = {}
    times: list[int] = []  # heap of negated times; deleted ones are popped when they reach the top
    for position in positions.tolist():
        time = int(event[position])
        state[time] = -1 if deleted[position] else position
        if not deleted[position]:
            heapq.heappush(times, -time)
        while times and state[-times[0]] < 0:
            heapq.heappop(times)
        newest.append(state[-times[0]] if times else -1)
    return newest


_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class AsOf:
    """Key number and as-of time of each entity row."""

    #: key number of each row, -1 for none
    keys: Numbers
    #: as-of time of each row
    times: Numbers
    #: positions of the rows ordered by key and time, so that consecutive searches hit the processor's cache
    order: Numbers

    @classmethod
    def of(cls, keys: Numbers, times: Numbers) -> Self:
        """Rows in any order."""
        sort_key = SortKey.of(int(keys.max(initial=-1)) + 1, times[times != NO_TIME])
        return cls(keys, times, np.argsort(sort_key.joint(keys, times), kind="stable"))


def newest_rows(
    as_of: AsOf, rows: ViewRows, ttl: timedelta | None, *, filter_by_created: bool = False
) -> pa.Array:
    """Position in `rows` of the newest row at or before each entity row; null if none or older than `ttl`.

    Of rows with equal key and time the one created last wins. With `filter_by_created` an entity row reads
    the version that existed at its own time: created by then and not yet superseded.
    """
    event, created = rows.event, rows.created
    count = int(as_of.keys.max(initial=-1)) + 1
    if filter_by_created and created is not None:
        since, step_keys, best = steps(*with_deletions(rows.keys, event, created, rows.ended))
        index = Index.of(SortKey.of(count, since), step_keys, since)
        positions = index.newest(as_of)
        answers = np.where(positions < 0, -1, best[positions]) if len(best) else positions
    else:
        index = Index.of(SortKey.of(count, event), rows.keys, event, created)
        answers = index.newest(as_of)
    missing = answers < 0
    if ttl is not None and len(event):
        with np.errstate(over="ignore"):  # an overflow concerns missing times, which are in `missing` already
            missing |= as_of.times - event[answers] > ttl // _MICROSECOND
    return pa.array(answers, mask=missing)


@dataclass(frozen=True)
class Index:
    """Rows in the order of key, time and creation."""

    #: positions of the rows in this order; None: the rows are in this order
    order: Numbers | None
    #: sort keys in this order
    sorted: Numbers
    sort_key: SortKey

    @classmethod
    def of(cls, sort_key: SortKey, keys: Numbers, since: Numbers, created: Numbers | None = None) -> Self:
        """Index of rows by key number, time from which they count, and creation time."""
        joint = sort_key.joint(keys, since)
        order = None
        if not (joint[1:] >= joint[:-1]).all():
            order = np.argsort(joint, kind="stable")
            joint = joint[order]
        if created is not None and (joint[1:] == joint[:-1]).any():
            order = np.lexsort((created, sort_key.joint(keys, since)))
        return cls(order, joint, sort_key)

    def newest(self, as_of: AsOf) -> Numbers:
        """Position of the last row of each entity row's key at or before its time, -1 where there is none."""
        if not len(self.sorted):
            return np.full(len(as_of.keys), -1)
        keys, times = as_of.keys[as_of.order], as_of.times[as_of.order]
        positions = np.searchsorted(self.sorted, self.sort_key.joint(keys, times), side="right") - 1
        before_all = keys * self.sort_key.width
        missing = (keys < 0) | (times == NO_TIME) | (positions < 0) | (self.sorted[positions] <= before_all)
        newest = np.where(missing, -1, positions if self.order is None else self.order[positions])
        answers = np.empty_like(newest)
        answers[as_of.order] = newest
        return answers

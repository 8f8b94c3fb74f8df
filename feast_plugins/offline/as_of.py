"""As-of join in columns: the newest feature row at or before each entity row.

Keys become numbers (`KeySpace`), key and time become one number (`SortKey`), the rows are sorted by it once,
and each entity row is found by binary search. Of rows with versions, those known at a time can be read.
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


#: Stands for a time that is missing.
NO_TIME = np.iinfo(np.int64).min


def microseconds(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds since 1970 of Arrow times; `NO_TIME` where there is none."""
    numbers = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64())
    found: NDArray[np.int64] = numbers.fill_null(NO_TIME).to_numpy()
    return found


#: Up to this many combinations of parts a table gives their numbers, which is faster than a search.
_TABLE = 1 << 22
UNKNOWN = -1


class KeySpace:
    """Numbers 0 … n-1 of the distinct keys in some rows, equal exactly where every part is."""

    def __init__(self, columns: Sequence[pa.ChunkedArray], length: int) -> None:
        """Number the keys of `length` rows, one column a part; without columns all have the same key."""
        self._levels: list[_Level] = []
        numbers, count = None, 1
        for column in columns:
            level = _Level(column.unique().drop_null(), count)
            numbers = level.learn(numbers, column)
            count = level.count
            self._levels.append(level)
        #: of each row; `UNKNOWN` where a part is missing, which equals nothing
        self.rows: Numbers = np.zeros(length, np.int64) if numbers is None else numbers
        self.count = count

    def find(self, columns: Sequence[pa.Array | pa.ChunkedArray], length: int) -> Numbers:
        """Numbers of the keys of `length` other rows, `UNKNOWN` for a key that is none of these."""
        numbers = None
        for level, column in zip(self._levels, columns, strict=True):
            numbers = level.find(numbers, column)
        return np.zeros(length, np.int64) if numbers is None else numbers


class _Level:
    """Adds one part to the keys numbered so far."""

    def __init__(self, values: pa.Array, before: int) -> None:
        self._values = values
        self._combinations = before * len(values)
        self._known: Numbers = np.array([], np.int64)
        self._table: Numbers | None = None
        self.count = 0

    def learn(self, before: Numbers | None, column: pa.ChunkedArray) -> Numbers:
        """Number the combinations that occur."""
        combined = self._combine(before, column)
        if before is None:  # the first part: every value occurs
            self.count = len(self._values)
            self._known = np.arange(self.count)
        else:
            known = np.unique(combined)
            self._known = known[known >= 0]
            self.count = len(self._known)
            if self._combinations <= _TABLE:
                self._table = np.full(self._combinations + 1, UNKNOWN)  # the last one for `UNKNOWN` itself
                self._table[self._known] = np.arange(self.count)
        return self._number(before, combined)

    def find(self, before: Numbers | None, column: pa.Array | pa.ChunkedArray) -> Numbers:
        """Numbers of combinations, `UNKNOWN` for one that was not learnt."""
        return self._number(before, self._combine(before, column))

    def _combine(self, before: Numbers | None, column: pa.Array | pa.ChunkedArray) -> Numbers:
        places = pc.index_in(column, value_set=self._values).fill_null(UNKNOWN)
        numbers: Numbers = places.to_numpy().astype(np.int64)
        if before is None:
            return numbers
        return np.where((numbers < 0) | (before < 0), UNKNOWN, before * len(self._values) + numbers)

    def _number(self, before: Numbers | None, combined: Numbers) -> Numbers:
        if before is None:
            return combined
        if self._table is not None:
            return self._table[combined]
        if not self.count:
            return np.full(len(combined), UNKNOWN)
        places = np.searchsorted(self._known, combined)
        places[places == self.count] = 0
        return np.where(self._known[places] == combined, places, UNKNOWN)


_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SortKey:
    """Times count from the first of some rows (1) to the last (`width` - 1); 0 is before all of them."""

    first: int
    width: int
    #: the rows' times, where differences of times are too large; places in here stand for them then
    ranks: Numbers | None = None

    @classmethod
    def of(cls, count: int, *times: Numbers) -> Self:
        """Sort key for `count` keys (-1, which stands for no key, not counted) and the times of some rows."""
        known = [part for part in times if len(part)]
        if not known:
            return cls(0, 2)
        first, last = int(min(part.min() for part in known)), int(max(part.max() for part in known))
        if (last - first + 2) * (count + 1) < _LARGEST:
            return cls(first, last - first + 2)
        ranks = np.unique(np.concatenate(known))
        return cls(0, len(ranks) + 1, ranks)

    def joint(self, keys: Numbers, times: Numbers) -> Numbers:
        """The numbers of keys and times; a time between two of the rows' counts as the earlier."""
        if self.ranks is not None:
            within = np.searchsorted(self.ranks, times, side="right")
        else:
            before = self.first - 1
            within = np.clip(times, before, before + self.width - 1) - before
        return keys * self.width + within

    def split(self, joint: Numbers) -> tuple[Numbers, Numbers]:
        """Keys and times of numbers that some rows have."""
        keys, within = np.divmod(joint, self.width)
        return keys, self.first - 1 + within if self.ranks is None else self.ranks[within - 1]


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


_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class AsOf:
    """As of when, and for which key, each entity row asks."""

    #: number of each row's key, -1 for none
    keys: Numbers
    #: microseconds since 1970 of each row
    times: Numbers
    #: positions of the rows by key and time: neighbours are searched for in the same part of the cache
    order: Numbers

    @classmethod
    def of(cls, keys: Numbers, times: Numbers) -> Self:
        """Rows in any order."""
        sort_key = SortKey.of(int(keys.max(initial=-1)) + 1, times[times != NO_TIME])
        return cls(keys, times, np.argsort(sort_key.joint(keys, times), kind="stable"))


def newest_rows(as_of: AsOf, rows: ViewRows, ttl: timedelta | None, *, as_known: bool = False) -> pa.Array:
    """Position in `rows` of the answer to each entity row, null where there is none.

    Of rows with equal key and time the one created last wins. An answer is at most `ttl` old. With
    `as_known`, a row counts for entity rows from the time it was created until it was superseded.
    """
    event, created = rows.event, rows.created
    count = int(as_of.keys.max(initial=-1)) + 1
    if as_known and created is not None:
        since, owners, found = steps(*with_deletions(rows.keys, event, created, rows.ended))
        index = Index.of(SortKey.of(count, since), owners, since)
        places = index.newest(as_of)
        answers = np.where(places < 0, -1, found[places]) if len(found) else places
    else:
        index = Index.of(SortKey.of(count, event), rows.keys, event, created)
        answers = index.newest(as_of)
    missing = answers < 0
    if ttl is not None and len(event):
        with np.errstate(over="ignore"):  # a time that is missing is missing already
            missing |= as_of.times - event[answers] > ttl // _MICROSECOND
    return pa.array(answers, mask=missing)


@dataclass(frozen=True)
class Index:
    """Rows in the order of key, time and, for equal ones, creation."""

    #: positions of the rows in this order; None: they are in it already
    order: Numbers | None
    #: key and time of each as one number
    sorted: Numbers
    sort_key: SortKey

    @classmethod
    def of(cls, sort_key: SortKey, keys: Numbers, since: Numbers, created: Numbers | None = None) -> Self:
        """Index of rows with these key numbers and times."""
        joint = sort_key.joint(keys, since)
        order = None
        if not (joint[1:] >= joint[:-1]).all():
            order = np.argsort(joint, kind="stable")
            joint = joint[order]
        if created is not None and (joint[1:] == joint[:-1]).any():
            order = np.lexsort((created, sort_key.joint(keys, since)))
        return cls(order, joint, sort_key)

    def newest(self, as_of: AsOf) -> Numbers:
        """Position of the last row of each key at or before each time, -1 where there is none."""
        if not len(self.sorted):
            return np.full(len(as_of.keys), -1)
        keys, times = as_of.keys[as_of.order], as_of.times[as_of.order]
        places = np.searchsorted(self.sorted, self.sort_key.joint(keys, times), side="right") - 1
        before_all = keys * self.sort_key.width
        missing = (keys < 0) | (times == NO_TIME) | (places < 0) | (self.sorted[places] <= before_all)
        found = np.where(missing, -1, places if self.order is None else self.order[places])
        answers = np.empty_like(found)
        answers[as_of.order] = found
        return answers

"""Numbers for keys, so that keys of several parts compare at the speed of one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

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

"""One number for a key's number and a time, in the order of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Scale:
    """Times count from the first of some rows (1) to the last (`width` - 1); 0 is before all of them."""

    first: int
    width: int
    #: the rows' times, where differences of times are too large; places in here stand for them then
    ranks: Numbers | None = None

    @classmethod
    def of(cls, count: int, *times: Numbers) -> Self:
        """Scale for `count` keys (-1, which stands for no key, not counted) and the times of some rows."""
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

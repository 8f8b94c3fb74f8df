"""As-of join: the newest feature row at or before each entity row, optionally as it was known by then.

Key and time make one number; the rows are sorted by it once, and each entity row is found by binary search.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from feast_plugins.history.entities import NO_TIME
from feast_plugins.history.scale import Scale
from feast_plugins.history.versions import steps, with_deletions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from feast_plugins.history.view_read import ViewRows

    Numbers = NDArray[np.int64]

_MICROSECOND = timedelta(microseconds=1)


def newest_rows(
    keys: Numbers, times: Numbers, rows: ViewRows, ttl: timedelta | None, *, as_known: bool = False
) -> pa.Array:
    """Position in `rows` of the answer to each entity row (key number, time), null where there is none.

    Of rows with equal key and time the one created last wins. An answer is at most `ttl` old. With
    `as_known`, a row counts for entity rows from the time it was created until it was superseded.
    """
    event, created = rows.event, rows.created
    count = int(keys.max(initial=-1)) + 1
    if as_known and created is not None:
        since, owners, found = steps(*with_deletions(rows.keys, event, created, rows.ended))
        index = Index.of(Scale.of(count, since), owners, since)
        places = index.newest(keys, times)
        answers = np.where(places < 0, -1, found[places]) if len(found) else places
    else:
        index = Index.of(Scale.of(count, event), rows.keys, event, created)
        answers = index.newest(keys, times)
    missing = answers < 0
    if ttl is not None and len(event):
        with np.errstate(over="ignore"):  # a time that is missing is missing already
            missing |= times - event[answers] > ttl // _MICROSECOND
    return pa.array(answers, mask=missing)


@dataclass(frozen=True)
class Index:
    """Rows in the order of key, time and, for equal ones, creation."""

    #: positions of the rows in this order; None: they are in it already
    order: Numbers | None
    #: key and time of each as one number
    sorted: Numbers
    scale: Scale

    @classmethod
    def of(cls, scale: Scale, keys: Numbers, since: Numbers, created: Numbers | None = None) -> Self:
        """Index of rows with these key numbers and times."""
        joint = scale.joint(keys, since)
        order = None
        if not (joint[1:] >= joint[:-1]).all():
            order = np.argsort(joint, kind="stable")
            joint = joint[order]
        if created is not None and (joint[1:] == joint[:-1]).any():
            order = np.lexsort((created, scale.joint(keys, since)))
        return cls(order, joint, scale)

    def newest(self, keys: Numbers, times: Numbers) -> Numbers:
        """Position of the last row of each key at or before each time, -1 where there is none."""
        if not len(self.sorted):
            return np.full(len(keys), -1)
        wanted = self.scale.joint(keys, times)
        # in order, neighbours search in the same part of the cache
        order = np.argsort(wanted, kind="stable")
        places = np.empty_like(order)
        places[order] = np.searchsorted(self.sorted, wanted[order], side="right") - 1
        first_of_key = self.scale.joint(keys, np.full(1, NO_TIME))
        missing = (keys < 0) | (times == NO_TIME) | (places < 0) | (self.sorted[places] <= first_of_key)
        found = places if self.order is None else self.order[places]
        return np.where(missing, -1, found)

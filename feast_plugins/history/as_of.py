"""As-of join: the newest feature row at or before each entity row, optionally as it was known by then.

Key and time make one number; the rows are sorted by it once, and each entity row is found by binary search.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from feast_plugins.history.scale import Scale
from feast_plugins.history.times import NO_TIME
from feast_plugins.history.versions import steps, with_deletions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from feast_plugins.history.view_read import ViewRows

    Numbers = NDArray[np.int64]

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Asked:
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
        scale = Scale.of(int(keys.max(initial=-1)) + 1, times[times != NO_TIME])
        return cls(keys, times, np.argsort(scale.joint(keys, times), kind="stable"))


def newest_rows(asked: Asked, rows: ViewRows, ttl: timedelta | None, *, as_known: bool = False) -> pa.Array:
    """Position in `rows` of the answer to each entity row, null where there is none.

    Of rows with equal key and time the one created last wins. An answer is at most `ttl` old. With
    `as_known`, a row counts for entity rows from the time it was created until it was superseded.
    """
    event, created = rows.event, rows.created
    count = int(asked.keys.max(initial=-1)) + 1
    if as_known and created is not None:
        since, owners, found = steps(*with_deletions(rows.keys, event, created, rows.ended))
        index = Index.of(Scale.of(count, since), owners, since)
        places = index.newest(asked)
        answers = np.where(places < 0, -1, found[places]) if len(found) else places
    else:
        index = Index.of(Scale.of(count, event), rows.keys, event, created)
        answers = index.newest(asked)
    missing = answers < 0
    if ttl is not None and len(event):
        with np.errstate(over="ignore"):  # a time that is missing is missing already
            missing |= asked.times - event[answers] > ttl // _MICROSECOND
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

    def newest(self, asked: Asked) -> Numbers:
        """Position of the last row of each key at or before each time, -1 where there is none."""
        if not len(self.sorted):
            return np.full(len(asked.keys), -1)
        keys, times = asked.keys[asked.order], asked.times[asked.order]
        places = np.searchsorted(self.sorted, self.scale.joint(keys, times), side="right") - 1
        before_all = keys * self.scale.width
        missing = (keys < 0) | (times == NO_TIME) | (places < 0) | (self.sorted[places] <= before_all)
        found = np.where(missing, -1, places if self.order is None else self.order[places])
        answers = np.empty_like(found)
        answers[asked.order] = found
        return answers

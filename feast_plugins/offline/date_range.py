"""History of feature views without entity rows: the rows between two times.

One view gives its own rows. Several views are joined at every key and time at which any of them has a row,
each with its newest row of the range at or before that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from psycopg import sql

from feast_plugins.errors import EntityKeysError
from feast_plugins.offline.as_of import UNKNOWN, AsOf, KeySpace, SortKey, microseconds, newest_rows
from feast_plugins.offline.views import ViewRows
from feast_plugins.postgres.session import TIME, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from adbc_driver_manager import dbapi
    from numpy.typing import NDArray

    from feast_plugins.offline.views import ViewRead

    Numbers = NDArray[np.int64]


EVENT, CREATED = "event_timestamp", "created_timestamp"


def rows_of(read: ViewRead, start: datetime, end: datetime, *, full_feature_names: bool) -> sql.Composed:
    """Query of the rows of one view from `start` to `end`, both included: times, then keys and features."""
    names = {read.time: EVENT} | ({read.created: CREATED} if read.created else {})
    keys = {column: name for name, column in read.keys.items()}
    columns = [*names.items(), *keys.items(), *read.outputs(full_feature_names).items()]
    return sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(sql.Identifier(column), sql.Identifier(name))
            for column, name in columns
        ),
        read.relation,
        sql.SQL(" AND ").join(read.between(start, end)),
    )


def join(
    connection: dbapi.Connection,
    reads: Sequence[ViewRead],
    start: datetime,
    end: datetime,
    *,
    full_feature_names: bool,
) -> pa.Table:
    """Joined rows of several views from `start` to `end`, both included, in the order of their event times.

    Raises:
        EntityKeysError: no view has the join keys of all others.
    """
    names = list(dict.fromkeys(name for read in reads for name in read.keys))
    complete = [number for number, read in enumerate(reads) if set(read.keys) == set(names)]
    if not complete:
        raise EntityKeysError([read.view for read in reads])
    tables = [fetch(connection, read.select(read.between(start, end))) for read in reads]
    base = _Base.of([(reads[number], tables[number]) for number in complete], names)
    columns: dict[str, pa.ChunkedArray | pa.Array] = {
        EVENT: pa.array(base.times[base.order], TIME),
        **{name: base.keys[name].take(pa.array(base.key_numbers[base.order])) for name in names},
    }
    for read, table in zip(reads, tables, strict=True):
        positions = base.positions(read, table).take(pa.array(base.order))
        for feature, name in read.outputs(full_feature_names).items():
            columns[name] = table[feature].combine_chunks().take(positions)
    return pa.table(columns)


@dataclass(frozen=True)
class _Base:
    """Every pair of key and time that occurs in some views, in the order of key and time."""

    #: distinct keys; the row is the key's number
    keys: pa.Table
    #: key number of each pair
    key_numbers: Numbers
    #: microseconds since 1970 of each pair
    times: Numbers
    #: positions of the pairs in the order of time
    order: Numbers

    @classmethod
    def of(cls, views: Sequence[tuple[ViewRead, pa.Table]], names: Sequence[str]) -> Self:
        """Pairs of views that have all join keys `names`, and of their rows."""
        first_read, first_table = views[0]
        types = {name: first_table.schema.field(column).type for name, column in first_read.keys.items()}
        combined = pa.concat_tables(
            pa.table({name: table[read.keys[name]].cast(types[name]) for name in names})
            for read, table in views
        )
        times = np.concatenate([microseconds(table[read.time]) for read, table in views])
        space = KeySpace([combined[name] for name in names], len(times))
        sort_key = SortKey.of(space.count, times)
        joint = np.sort(sort_key.joint(space.rows, times)[space.rows != UNKNOWN])
        # faster than `np.unique`, which sorts again
        distinct = joint[np.append(True, joint[1:] != joint[:-1])] if len(joint) else joint
        key_numbers, times_of_keys = sort_key.split(distinct)
        numbers, examples = np.unique(space.rows, return_index=True)
        return cls(
            keys=combined.take(pa.array(examples[numbers != UNKNOWN])),
            key_numbers=key_numbers,
            times=times_of_keys,
            order=np.argsort(times_of_keys, kind="stable"),
        )

    def positions(self, read: ViewRead, table: pa.Table) -> pa.Array:
        """Position in a view's `table` of the newest row at or before each pair, null where there is none."""
        names = list(read.keys)
        space = KeySpace([self.keys[name] for name in names], self.keys.num_rows)
        columns = [table[read.keys[name]].cast(self.keys.schema.field(name).type) for name in names]
        rows = ViewRows(
            keys=space.find(columns, table.num_rows),
            event=microseconds(table[read.time]),
            created=microseconds(table[read.created]) if read.created else None,
            ended=None,
            features=table,
        )
        # the pairs are in the order of key and time
        as_of = AsOf(space.rows[self.key_numbers], self.times, np.arange(len(self.times)))
        return newest_rows(as_of, rows, read.ttl)

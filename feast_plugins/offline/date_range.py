"""History of feature views without entity rows: what there was between two times.

One view gives its rows. Several views are joined at every key and time that any of them has a row of: each
with its newest row of the range by then.
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
    """Query of the rows of one view in the range, times first, then keys and features."""
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
    """Rows of several views in the range, joined, in the order of their time.

    Raises:
        EntityKeysError: no view has the keys of all others, so their rows cannot be told apart.
    """
    names = list(dict.fromkeys(name for read in reads for name in read.keys))
    complete = [number for number, read in enumerate(reads) if set(read.keys) == set(names)]
    if not complete:
        raise EntityKeysError([read.view for read in reads])
    tables = [fetch(connection, read.select(read.between(start, end))) for read in reads]
    base = _Base.of([(reads[number], tables[number]) for number in complete], names)
    columns: dict[str, pa.ChunkedArray | pa.Array] = {
        EVENT: pa.array(base.times[base.order], TIME),
        **{name: base.keys[name].take(pa.array(base.owners[base.order])) for name in names},
    }
    for read, table in zip(reads, tables, strict=True):
        found = base.answers(read, table).take(pa.array(base.order))
        for feature, name in read.outputs(full_feature_names).items():
            columns[name] = table[feature].combine_chunks().take(found)
    return pa.table(columns)


@dataclass(frozen=True)
class _Base:
    """Every key and time that occurs in some views."""

    #: distinct keys, one column a part
    keys: pa.Table
    #: number of the key of each row
    owners: Numbers
    #: microseconds since 1970 of each row
    times: Numbers
    #: positions of the rows in the order of time
    order: Numbers

    @classmethod
    def of(cls, views: Sequence[tuple[ViewRead, pa.Table]], names: Sequence[str]) -> Self:
        """Keys and times of views that have all of the keys."""
        first_read, first_table = views[0]
        types = {name: first_table.schema.field(column).type for name, column in first_read.keys.items()}
        together = pa.concat_tables(
            pa.table({name: table[read.keys[name]].cast(types[name]) for name in names})
            for read, table in views
        )
        times = np.concatenate([microseconds(table[read.time]) for read, table in views])
        space = KeySpace([together[name] for name in names], len(times))
        sort_key = SortKey.of(space.count, times)
        occurring = np.sort(sort_key.joint(space.rows, times)[space.rows != UNKNOWN])
        # sorted already, which `np.unique` would not make use of
        occurring = (
            occurring[np.append(True, occurring[1:] != occurring[:-1])] if len(occurring) else occurring
        )
        owners, at = sort_key.split(occurring)
        numbers, examples = np.unique(space.rows, return_index=True)
        return cls(
            keys=together.take(pa.array(examples[numbers != UNKNOWN])),
            owners=owners,
            times=at,
            order=np.argsort(at, kind="stable"),
        )

    def answers(self, read: ViewRead, table: pa.Table) -> pa.Array:
        """Position in a view's `table` of the newest row by each key and time, null where there is none."""
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
        # they are in the order of key and time
        as_of = AsOf(space.rows[self.owners], self.times, np.arange(len(self.times)))
        return newest_rows(as_of, rows, read.ttl)

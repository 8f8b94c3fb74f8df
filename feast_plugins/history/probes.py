"""History by index probes: for each entity row the database looks up the one feature row that answers it.

Entity rows travel as array literals, in blocks. No table is made for them, so none can stay behind, and it
works where `COPY … FROM STDIN` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from psycopg import sql

from feast_plugins.history.entities import Entities
from feast_plugins.history.view_read import ViewRead
from feast_plugins.postgres.reads import fetch, schema
from feast_plugins.postgres.types import type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adbc_driver_manager import dbapi


#: Entity rows of a statement, whose text stays below a few megabytes.
BLOCK = 20_000
_PLACE, _TIME = "entity_row", "at"
_COMMA = sql.SQL(", ")


@dataclass(frozen=True)
class Probes:
    """Index probes of one view for some entity rows; a row with a missing key or time is not asked for."""

    read: ViewRead
    entities: Entities
    #: Postgres' names of the types of the view's key columns
    types: tuple[str, ...]

    @classmethod
    def of(cls, connection: dbapi.Connection, read: ViewRead, entities: Entities) -> Probes:
        """Probes that compare keys as values of the types that they have in the view."""
        columns = list(read.keys.values())
        found = schema(connection, read.select([sql.SQL("true")], columns)) if columns else ()
        return cls(read, entities, tuple(type_name(field) for field in found))

    def query(self, rows: pa.Table, columns: Sequence[str]) -> sql.Composed:
        """Place of each entity row that has an answer (1 is the first), and `columns` of the answer."""
        names = {name: f"key_{number}" for number, name in enumerate(self.read.keys)}
        arrays = [array(rows[name], kind) for name, kind in zip(names, self.types, strict=True)]
        arrays.append(array(rows[self.entities.time], "timestamptz"))
        return sql.SQL(
            "SELECT {picked} FROM unnest({arrays}) WITH ORDINALITY AS given ({given}) CROSS JOIN LATERAL "
            "{answer} AS found"
        ).format(
            picked=_COMMA.join(
                [_of("given", _PLACE), *(_of("found", column) for column in columns)],
            ),
            arrays=_COMMA.join(arrays),
            given=_COMMA.join(map(sql.Identifier, (*names.values(), _TIME, _PLACE))),
            answer=self.answer(names, _TIME, columns),
        )

    def answer(self, names: Mapping[str, str], time: str, columns: Sequence[str]) -> sql.Composed:
        """Subquery of the row that answers row `given`, whose columns are `names` of the keys and `time`."""
        at, stamp = _of("given", time), _of("source", self.read.time)
        conditions = [
            sql.SQL("{} = {}").format(_of("source", column), _of("given", names[name]))
            for name, column in self.read.keys.items()
        ]
        conditions.append(sql.SQL("{} <= {}").format(stamp, at))
        if self.read.ttl is not None:
            conditions.append(sql.SQL("{} >= {} - {}").format(stamp, at, sql.Literal(self.read.ttl)))
        order = [sql.SQL("{} DESC").format(stamp)]
        if self.read.created is not None:
            order.append(sql.SQL("{} DESC NULLS LAST").format(_of("source", self.read.created)))
        return sql.SQL("(SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT 1)").format(
            _COMMA.join(_of("source", column) for column in columns) if columns else sql.SQL("1"),
            self.read.relation,
            sql.SQL(" AND ").join(conditions),
            _COMMA.join(order),
        )

    def answers(self, connection: dbapi.Connection) -> pa.Table:
        """Features of the view for each entity row, nulls where there is no answer."""
        columns = self.read.features
        found = []
        for first in range(0, self.entities.table.num_rows, BLOCK):
            rows = self.entities.table.slice(first, BLOCK)
            table = fetch(connection, self.query(rows, columns))
            places = table[_PLACE].to_numpy() - 1
            positions = np.full(rows.num_rows, -1)
            positions[places] = np.arange(len(places))
            taken = pa.array(positions, mask=positions < 0)
            found.append(table.select(list(columns)).take(taken))
        return pa.concat_tables(found)


def array(column: pa.ChunkedArray, kind: str) -> sql.Composed:
    """Array of a column's values, as text that Postgres reads as values of `kind`."""
    texts = column.cast(pa.string()).to_pylist()
    return sql.SQL("{}::text[]::{}[]").format(sql.Literal(texts), sql.Identifier(kind))


def _of(relation: str, column: str) -> sql.Identifier:
    return sql.Identifier(relation, column)

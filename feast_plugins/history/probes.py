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
    from collections.abc import Iterator, Sequence

    from adbc_driver_manager import dbapi


#: Entity rows of a statement, whose text stays below a few megabytes.
BLOCK = 20_000
_PLACE = "entity_row"


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
        names = [f"key_{number}" for number in range(len(self.read.keys))]
        values = [rows[name] for name in self.read.keys]
        arrays = [
            *(_array(column, kind) for column, kind in zip(values, self.types, strict=True)),
            _array(rows[self.entities.time], "timestamptz"),
        ]
        given = sql.SQL(", ").join(sql.Identifier(name) for name in (*names, "at", _PLACE))
        picked = [sql.SQL("found.{}").format(sql.Identifier(column)) for column in columns]
        return sql.SQL(
            "SELECT {picked} FROM unnest({arrays}) WITH ORDINALITY AS given ({given}) CROSS JOIN LATERAL "
            "(SELECT {columns} FROM {source} WHERE {conditions} ORDER BY {order} LIMIT 1) AS found"
        ).format(
            picked=sql.SQL(", ").join([sql.SQL("given.{}").format(sql.Identifier(_PLACE)), *picked]),
            arrays=sql.SQL(", ").join(arrays),
            given=given,
            columns=sql.SQL(", ").join(sql.Identifier("source", column) for column in columns)
            if columns
            else sql.SQL("1"),
            source=self.read.relation,
            conditions=sql.SQL(" AND ").join(self._conditions(names)),
            order=self._order(),
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

    def _conditions(self, names: Sequence[str]) -> Iterator[sql.Composed]:
        for name, column in zip(names, self.read.keys.values(), strict=True):
            yield sql.SQL("source.{} = given.{}").format(sql.Identifier(column), sql.Identifier(name))
        time = sql.Identifier(self.read.time)
        yield sql.SQL("source.{} <= given.at").format(time)
        if self.read.ttl is not None:
            yield sql.SQL("source.{} >= given.at - {}").format(time, sql.Literal(self.read.ttl))

    def _order(self) -> sql.Composed:
        order = sql.SQL("source.{} DESC").format(sql.Identifier(self.read.time))
        if self.read.created is None:
            return order
        created = sql.SQL(", source.{} DESC NULLS LAST").format(sql.Identifier(self.read.created))
        return order + created


def _array(column: pa.ChunkedArray, kind: str) -> sql.Composed:
    """Array of a column's values, as text that Postgres reads as values of `kind`."""
    texts = column.cast(pa.string()).to_pylist()
    return sql.SQL("{}::text[]::{}[]").format(sql.Literal(texts), sql.Identifier(kind))

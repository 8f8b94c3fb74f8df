"""History for entity rows: each row with the features as of its own time.

Joined where it is cheaper as the planner sees it: in the database by one index probe an entity row, or in
Arrow from one read of the rows in reach. Entity rows travel as array literals, in blocks: no table is made
for them, so none can stay behind, and it works where `COPY … FROM STDIN` does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from adbc_driver_manager import dbapi
from psycopg import sql

from feast_plugins.errors import EntityTypeError
from feast_plugins.offline.as_of import newest_rows
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.views import ViewRead, read_rows
from feast_plugins.postgres.session import fetch, fetch_value, schema, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from feast_plugins.offline.views import AsOfFilter


#: Entity rows of a statement, whose text stays below a few megabytes.
BLOCK = 20_000
_PLACE, _TIME = "entity_row", "at"
_COMMA = sql.SQL(", ")


@dataclass(frozen=True)
class Probes:
    """Index probes of one view for some entity rows; a row with a missing key or time is left out."""

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
        arrays = [array_literal(rows[name], kind) for name, kind in zip(names, self.types, strict=True)]
        arrays.append(array_literal(rows[self.entities.time], "timestamptz"))
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


def array_literal(column: pa.ChunkedArray, kind: str) -> sql.Composed:
    """Array of a column's values, as text that Postgres reads as values of `kind`."""
    texts = column.cast(pa.string()).to_pylist()
    return sql.SQL("{}::text[]::{}[]").format(sql.Literal(texts), sql.Identifier(kind))


def _of(relation: str, column: str) -> sql.Identifier:
    return sql.Identifier(relation, column)


#: What the planner does not count: bringing a row to the client and joining it there, in its units.
_CLIENT_ROW = 0.3
_SAMPLE = 100


class JoinStrategy(StrEnum):
    """Where history is joined."""

    AUTO = "auto"
    #: in the database, one index probe an entity row
    PROBE = "probe"
    #: in Arrow, from one read of the rows in reach
    RANGE = "range"


def choose_strategy(connection: dbapi.Connection, probes: Probes, in_reach: sql.Composed) -> JoinStrategy:
    """The cheaper strategy for these entity rows and the query of all rows in reach."""
    read = _plan(connection, in_reach)
    rows = probes.entities.table
    sample = rows.slice(0, _SAMPLE)
    probe = _plan(connection, probes.query(sample, probes.read.features))
    by_probe = probe["Total Cost"] * rows.num_rows / sample.num_rows
    by_range = read["Total Cost"] + read["Plan Rows"] * _CLIENT_ROW
    return JoinStrategy.PROBE if by_probe < by_range else JoinStrategy.RANGE


def _plan(connection: dbapi.Connection, query: sql.Composed) -> dict[str, Any]:
    """The planner's estimates for a query, which is not run."""
    found = fetch_value(connection, sql.SQL("EXPLAIN (FORMAT json) ") + query)
    plan: dict[str, Any] = json.loads(str(found))[0]["Plan"]
    return plan


_PLACE = "entity_row"


def as_query(
    connection: dbapi.Connection,
    entities: Entities,
    reads: Sequence[ViewRead],
    *,
    full_feature_names: bool,
) -> sql.Composed:
    """Query of the entity rows, which are literals in it, each with the features as of its time."""
    names = entities.table.column_names
    # keys have the types of the views' keys, so that an index on them serves
    kinds = {field.name: _kind(field.type) for field in entities.table.schema}
    answers: list[sql.Composable] = []
    picked: list[sql.Composable] = [sql.Identifier("given", name) for name in names]
    for number, read in enumerate(reads):
        probes = Probes.of(connection, read, entities)
        kinds |= zip(read.keys, probes.types, strict=True)
        view = f"view_{number}"
        answers.append(
            sql.SQL(" LEFT JOIN LATERAL {} AS {} ON true").format(
                probes.answer({name: name for name in read.keys}, entities.time, read.features),
                sql.Identifier(view),
            )
        )
        picked += [
            sql.SQL("{} AS {}").format(sql.Identifier(view, feature), sql.Identifier(name))
            for feature, name in read.outputs(full_feature_names).items()
        ]
    comma = sql.SQL(", ")
    return sql.SQL("SELECT {} FROM unnest({}) WITH ORDINALITY AS given ({}){} ORDER BY {}").format(
        comma.join(picked),
        comma.join(array_literal(entities.table[name], kinds[name]) for name in names),
        comma.join(map(sql.Identifier, (*names, _PLACE))),
        sql.Composed(answers),
        sql.Identifier("given", _PLACE),
    )


def _kind(type_: pa.DataType) -> str:
    """Postgres' name of the type of an entity column."""
    return _KINDS.get(str(type_), "timestamptz" if str(type_).startswith("timestamp") else "text")


_KINDS = {"bool": "bool", "float": "float4", "double": "float8"} | {
    f"{sign}int{bits}": "int8" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


_NO_SUCH_OPERATOR = "42883"


def join(
    connection: dbapi.Connection,
    entities: Entities,
    reads: Sequence[ViewRead],
    as_of_filter: AsOfFilter,
    *,
    strategy: JoinStrategy,
    full_feature_names: bool,
) -> pa.Table:
    """The entity rows in their order, with the features of every view.

    Raises:
        EntityTypeError: a key has another type than in a view, so that the two cannot be compared.
    """
    joined = entities.table
    for read in reads:
        try:
            answers = _answers(connection, entities, read, as_of_filter, strategy)
        except dbapi.ProgrammingError as error:
            if error.sqlstate != _NO_SUCH_OPERATOR:
                raise
            types = {name: str(joined.schema.field(name).type) for name in read.keys}
            raise EntityTypeError(read.view, types) from error
        for feature, name in read.outputs(full_feature_names).items():
            joined = joined.append_column(name, answers[feature])
    return joined


def _answers(
    connection: dbapi.Connection,
    entities: Entities,
    read: ViewRead,
    as_of_filter: AsOfFilter,
    strategy: JoinStrategy,
) -> pa.Table:
    """Features of one view for each entity row."""
    in_reach = read.in_reach(entities, as_of_filter)
    # probes see rows as they are now
    if strategy != JoinStrategy.RANGE and not as_of_filter.is_limited and entities.table.num_rows:
        schema(connection, in_reach)  # refuses keys that do not compare, as probes by their texts would not
        probes = Probes.of(connection, read, entities)
        if (
            strategy == JoinStrategy.PROBE
            or choose_strategy(connection, probes, in_reach) == JoinStrategy.PROBE
        ):
            return probes.answers(connection)
    as_of, rows = read_rows(connection, read, in_reach, entities)
    if as_of_filter.at is not None:
        rows = rows.known_at(as_of_filter.at)
    as_known = as_of_filter.by_row and read.created is not None
    found = newest_rows(as_of, rows, read.ttl, as_known=as_known)
    return rows.features.combine_chunks().take(found)

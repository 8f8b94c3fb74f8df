"""History for entity rows: each row with the features as of its own time.

Joined where the planner's estimate is lower: in the database by one index probe per entity row, or in Arrow
from one read of the candidate rows. Entity rows are sent as array literals, in blocks: there is no temporary
table to clean up, and no need of `COPY … FROM STDIN`, which some servers lack.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from adbc_driver_manager import dbapi
from psycopg import sql

from feast_plugins.errors import EntityTypeError
from feast_plugins.offline.as_of import newest_rows
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.issues import IssueHistory
from feast_plugins.offline.unstored import warn_of_later
from feast_plugins.offline.views import AsOfFilter, ViewRead, read_rows
from feast_plugins.postgres.session import fetch, fetch_value, schema, type_name
from feast_plugins.postgres.sources import newest_row
from feast_plugins.windows.declarations import declaration_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from feast import FeatureView
    from numpy.typing import NDArray


#: Entity rows per statement, which keeps its text below a few megabytes.
BLOCK = 20_000
_ROW_NUMBER, _TIME = "entity_row", "at"
_COMMA = sql.SQL(", ")


@dataclass(frozen=True)
class Probes:
    """Index probes of one view for entity rows; a row with a missing key or time finds nothing."""

    read: ViewRead
    entities: Entities
    #: Postgres' names of the types of the view's key columns
    types: tuple[str, ...]

    @classmethod
    def of(cls, connection: dbapi.Connection, read: ViewRead, entities: Entities) -> Probes:
        """Probes that compare keys as values of their types in the view."""
        columns = list(read.keys.values())
        key_schema = schema(connection, read.select([sql.SQL("true")], columns)) if columns else ()
        return cls(read, entities, tuple(type_name(field) for field in key_schema))

    def query(self, rows: pa.Table, columns: Sequence[str]) -> sql.Composed:
        """Query of the number (from 1) of each entity row that has a feature row, and its `columns`."""
        names = {name: f"key_{number}" for number, name in enumerate(self.read.keys)}
        arrays = [array_literal(rows[name], kind) for name, kind in zip(names, self.types, strict=True)]
        arrays.append(array_literal(rows[self.entities.time], "timestamptz"))
        return sql.SQL(
            "SELECT {selected} FROM unnest({arrays}) WITH ORDINALITY AS entity ({entity}) CROSS JOIN LATERAL "
            "{feature_row} AS feature"
        ).format(
            selected=_COMMA.join(
                [_of("entity", _ROW_NUMBER), *(_of("feature", column) for column in columns)],
            ),
            arrays=_COMMA.join(arrays),
            entity=_COMMA.join(map(sql.Identifier, (*names.values(), _TIME, _ROW_NUMBER))),
            feature_row=self.lateral_row(names, _TIME, columns),
        )

    def lateral_row(self, names: Mapping[str, str], time: str, columns: Sequence[str]) -> sql.Composed:
        """Subquery of the feature row as of row `entity`, with the columns `names` of keys and `time`."""
        at, stamp = _of("entity", time), _of("source", self.read.time)
        conditions = [
            sql.SQL("{} = {}").format(_of("source", column), _of("entity", names[name]))
            for name, column in self.read.keys.items()
        ]
        conditions.append(sql.SQL("{} <= {}").format(stamp, at))
        if self.read.ttl is not None:
            conditions.append(sql.SQL("{} >= {} - {}").format(stamp, at, sql.Literal(self.read.ttl)))
        selection = _COMMA.join(_of("source", column) for column in columns) if columns else sql.SQL("1")
        rows = sql.SQL(" FROM {} WHERE {}").format(self.read.relation, sql.SQL(" AND ").join(conditions))
        return sql.SQL("({})").format(newest_row(selection, rows, self.read.time, self.read.created))

    def features(self, connection: dbapi.Connection) -> pa.Table:
        """Features of the view for each entity row, null where there is no feature row."""
        columns = self.read.features
        tables = []
        for first in range(0, self.entities.table.num_rows, BLOCK):
            rows = self.entities.table.slice(first, BLOCK)
            table = fetch(connection, self.query(rows, columns))
            numbers = table[_ROW_NUMBER].to_numpy() - 1
            positions = np.full(rows.num_rows, -1)
            positions[numbers] = np.arange(len(numbers))
            indexes = pa.array(positions, mask=positions < 0)
            tables.append(table.select(list(columns)).take(indexes))
        return pa.concat_tables(tables)


def array_literal(column: pa.ChunkedArray, kind: str) -> sql.Composed:
    """SQL array of a column's values, as texts that Postgres casts to `kind`."""
    texts = column.cast(pa.string()).to_pylist()
    return sql.SQL("{}::text[]::{}[]").format(sql.Literal(texts), sql.Identifier(kind))


def _of(relation: str, column: str) -> sql.Identifier:
    return sql.Identifier(relation, column)


#: Cost, in the planner's units, of sending a row to the client and joining it there.
_CLIENT_ROW = 0.3
_SAMPLE = 100


class JoinStrategy(StrEnum):
    """Where history is joined."""

    AUTO = "auto"
    #: in the database, by one index probe per entity row
    PROBE = "probe"
    #: in Arrow, from one read of the candidate rows
    RANGE = "range"


def choose_strategy(connection: dbapi.Connection, probes: Probes, candidates: sql.Composed) -> JoinStrategy:
    """The cheaper strategy for these probes and the query of all candidate rows."""
    range_plan = _plan(connection, candidates)
    rows = probes.entities.table
    sample = rows.slice(0, _SAMPLE)
    probe_plan = _plan(connection, probes.query(sample, probes.read.features))
    by_probe = probe_plan["Total Cost"] * rows.num_rows / sample.num_rows
    by_range = range_plan["Total Cost"] + range_plan["Plan Rows"] * _CLIENT_ROW
    return JoinStrategy.PROBE if by_probe < by_range else JoinStrategy.RANGE


def _plan(connection: dbapi.Connection, query: sql.Composed) -> dict[str, Any]:
    """Top node of the planner's EXPLAIN of a query, which is not run."""
    explained = fetch_value(connection, sql.SQL("EXPLAIN (FORMAT json) ") + query)
    plan: dict[str, Any] = json.loads(str(explained))[0]["Plan"]
    return plan


def as_query(
    connection: dbapi.Connection,
    entities: Entities,
    reads: Sequence[ViewRead],
    *,
    full_feature_names: bool,
) -> sql.Composed:
    """Query of the entity rows, as literals, each with the features as of its time."""
    names = entities.table.column_names
    # keys have the types of the views' keys, so that an index on those is used
    kinds = {field.name: _kind(field.type) for field in entities.table.schema}
    joins: list[sql.Composable] = []
    selected: list[sql.Composable] = [sql.Identifier("entity", name) for name in names]
    for number, read in enumerate(reads):
        probes = Probes.of(connection, read, entities)
        kinds |= zip(read.keys, probes.types, strict=True)
        view = f"view_{number}"
        joins.append(
            sql.SQL(" LEFT JOIN LATERAL {} AS {} ON true").format(
                probes.lateral_row({name: name for name in read.keys}, entities.time, read.features),
                sql.Identifier(view),
            )
        )
        selected += [
            sql.SQL("{} AS {}").format(sql.Identifier(view, feature), sql.Identifier(name))
            for feature, name in read.outputs(full_feature_names).items()
        ]
    comma = sql.SQL(", ")
    return sql.SQL("SELECT {} FROM unnest({}) WITH ORDINALITY AS entity ({}){} ORDER BY {}").format(
        comma.join(selected),
        comma.join(array_literal(entities.table[name], kinds[name]) for name in names),
        comma.join(map(sql.Identifier, (*names, _ROW_NUMBER))),
        sql.Composed(joins),
        sql.Identifier("entity", _ROW_NUMBER),
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
        EntityTypeError: a join key has a type that does not compare with that of a view.
    """
    joined = entities.table
    for read in reads:
        try:
            features = _features(connection, entities, read, as_of_filter, strategy)
        except dbapi.ProgrammingError as error:
            if error.sqlstate != _NO_SUCH_OPERATOR:
                raise
            types = {name: str(joined.schema.field(name).type) for name in read.keys}
            raise EntityTypeError(read.view, types) from error
        for feature, name in read.outputs(full_feature_names).items():
            joined = joined.append_column(name, features[feature])
    return joined


def _features(
    connection: dbapi.Connection,
    entities: Entities,
    read: ViewRead,
    as_of_filter: AsOfFilter,
    strategy: JoinStrategy,
) -> pa.Table:
    """Features of one view for each entity row."""
    if read.declaration is None:
        return _rows_of(connection, entities, read, as_of_filter, strategy)
    issues = IssueHistory.of(connection, entities, read, as_of_filter)
    return issues.features(connection, _of_issue(connection, issues, strategy))


def _of_issue(connection: dbapi.Connection, issues: IssueHistory, strategy: JoinStrategy) -> pa.Table:
    """The newest row whose readings were available, of each issue."""
    read, as_of_filter = issues.features_of_issue, issues.as_of_filter
    return _rows_of(connection, issues.available(), read, as_of_filter, strategy, delays=issues.delays)


# an asset has rows up to a day after its last reading, which may have become available after 90 days
_ASSETS = """\
SELECT spans.tenant_id, spans.asset_id, {at} AS event_timestamp
FROM asset_spans AS spans
WHERE spans.last_hour >= {oldest} - INTERVAL '25 hours' - INTERVAL '90 days' AND {condition}"""
_ALL = sql.SQL("true")


def newest_issues(
    connection: dbapi.Connection,
    view: FeatureView,
    at: datetime,
    condition: sql.Composable = _ALL,
) -> pa.RecordBatchReader:
    """The rows that are issued at a time, of all assets that have one: keys, features, times of the source.

    Args:
        connection: in a transaction.
        view: declared with a horizon.
        at: the begin of its step is the time of issue.
        condition: on `spans`, the rows of asset_spans.
    """
    source, declaration = view.batch_source, declaration_of(view)
    assert source is not None  # noqa: S101  # of declared views
    assert declaration is not None  # noqa: S101  # see the arguments
    names = [feature.name for feature in view.features]
    read = ViewRead(
        view=view.name,
        source=source.get_table_query_string(),
        keys={name: name for name in view.join_keys},
        features=tuple(names),
        names={name: name for name in names},
        time=source.timestamp_field,
        created=source.created_timestamp_column or None,
        ttl=view.ttl or None,
        declaration=declaration,
    )
    query = sql.SQL(_ASSETS).format(
        at=sql.SQL("{}::timestamptz").format(sql.Literal(at)),
        oldest=sql.SQL("{}::timestamptz").format(sql.Literal(at - (view.ttl or timedelta(days=36_500)))),
        condition=condition,
    )
    entities = Entities(fetch(connection, query), "event_timestamp")
    issues = IssueHistory.of(connection, entities, read, AsOfFilter())
    rows = _of_issue(connection, issues, JoinStrategy.AUTO)
    has_row = rows[source.timestamp_field].is_valid()
    features = issues.features(connection, rows)
    table = issues.entities.table
    columns = {name: table[name] for name in view.join_keys} | {name: features[name] for name in names}
    stamps = dict.fromkeys([source.timestamp_field, *filter(None, [source.created_timestamp_column])])
    columns |= dict.fromkeys(stamps, table["event_timestamp"])
    return pa.table(columns).filter(has_row).combine_chunks().to_reader()


def _rows_of(
    connection: dbapi.Connection,
    entities: Entities,
    read: ViewRead,
    as_of_filter: AsOfFilter,
    strategy: JoinStrategy,
    *,
    delays: NDArray[np.int64] | None = None,
) -> pa.Table:
    """The newest row of a view as of each entity row.

    With `delays`, in microseconds by number of the key, rows are of so much later.
    """
    reach = read
    if delays is not None and read.ttl is not None:
        reach = replace(read, ttl=read.ttl + timedelta(microseconds=int(delays.max(initial=0))))
    candidates = reach.candidates(entities, as_of_filter)
    # probes read the present rows only
    if strategy != JoinStrategy.RANGE and not as_of_filter.is_limited and entities.table.num_rows:
        schema(connection, candidates)  # fails for keys of other types, which probes would cast from text
        probes = Probes.of(connection, read, entities)
        if (
            strategy == JoinStrategy.PROBE
            or choose_strategy(connection, probes, candidates) == JoinStrategy.PROBE
        ):
            return probes.features(connection)
    as_of, rows = read_rows(connection, read, candidates, entities)
    if as_of_filter.at is not None:
        rows = rows.known_at(as_of_filter.at)
    if delays is not None:
        rows = replace(rows, event=rows.event + delays[rows.keys])
    filter_by_created = as_of_filter.by_row and read.created is not None
    positions = newest_rows(as_of, rows, read.ttl, filter_by_created=filter_by_created)
    if as_of_filter.is_limited:
        warn_of_later(connection, read, entities, as_of_filter, lacks_rows=positions.null_count > 0)
    return rows.features.combine_chunks().take(positions)

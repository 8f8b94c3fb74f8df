"""Writes by `INSERT … SELECT FROM unnest`, which servers without `COPY … FROM STDIN` support, too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from psycopg import sql

from feast_plugins.errors import WriteColumnsError, WriteTargetError
from feast_plugins.postgres.session import TIME, open_connection

if TYPE_CHECKING:
    from feast.feature_view import FeatureView
    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
    from psycopg import Connection


_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
"""


def upsert(connection: Connection[Any], feature_view: FeatureView, rows: pa.Table) -> None:
    """Insert `rows`, with the view's names, or update the rows with the same join keys and event time.

    Of several rows with the same keys and time, in `rows` and in the table, the one created last is stored.

    Raises:
        WriteColumnsError: the columns differ from those of the table.
        WriteTargetError: the source is no table, or has no unique key of join keys and event time.
    """
    source = feature_view.batch_source
    table = source.get_table_query_string() if isinstance(source, PostgreSQLSource) else "("
    if source is None or table.startswith("("):
        raise WriteTargetError(
            f"The batch source of {feature_view.name} is no table, so rows cannot be written to it."
        )
    columns = {feature: column for column, feature in source.field_mapping.items()}
    rows = rows.rename_columns([columns.get(name, name) for name in rows.column_names])
    types = dict(connection.execute(_COLUMNS, [table]).fetchall())
    key = [
        *(columns.get(key, key) for key in feature_view.join_keys),
        columns.get(source.timestamp_field, source.timestamp_field),
    ]
    created = columns.get(source.created_timestamp_column, source.created_timestamp_column)
    absent = {*key, *filter(None, [created])} - set(rows.column_names)
    if absent or (unknown := set(rows.column_names) - types.keys()):
        raise WriteColumnsError(table, absent, set() if absent else unknown)
    names = rows.column_names
    try:
        connection.execute(
            _statement(table, {name: types[name] for name in names}, key, created),
            [_values(rows[name]) for name in names],
        )
    except psycopg.errors.InvalidColumnReference as error:
        raise WriteTargetError(
            f"{table} needs a unique key ({', '.join(key)}): "
            "without it, a row that is pushed twice would be stored twice."
        ) from error


def _statement(table: str, types: dict[str, str], key: list[str], created: str) -> sql.Composed:
    comma = sql.SQL(", ")
    names = comma.join(map(sql.Identifier, types))
    number = sql.Identifier("_pushed_row_number")
    measures = [name for name in types if name not in key]
    created_order = [sql.SQL("{} DESC").format(sql.Identifier(created))] if created else []
    not_older = (
        sql.SQL("stored.{0} <= excluded.{0}").format(sql.Identifier(created)) if created else sql.SQL("true")
    )
    # a row whose values are stored already is not updated, whatever its created timestamp
    compared = [name for name in measures if name != created]
    return sql.SQL(
        "INSERT INTO {table} AS stored ({names})"
        " SELECT DISTINCT ON ({key}) {names}"
        " FROM unnest({arrays}) WITH ORDINALITY AS pushed ({names}, {number})"
        " ORDER BY {key}, {newest} ON CONFLICT ({key}) {action}"
    ).format(
        table=sql.SQL(table),
        names=names,
        key=comma.join(map(sql.Identifier, key)),
        arrays=comma.join(sql.SQL("%s::{}[]").format(sql.SQL(kind)) for kind in types.values()),
        number=number,
        newest=comma.join([*created_order, sql.SQL("{} DESC").format(number)]),
        action=sql.SQL(
            "DO UPDATE SET {changes} WHERE {not_older} AND ({stored}) IS DISTINCT FROM ({pushed})"
        ).format(
            changes=comma.join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in measures
            ),
            not_older=not_older,
            stored=comma.join(sql.Identifier("stored", name) for name in compared),
            pushed=comma.join(sql.Identifier("excluded", name) for name in compared),
        )
        if compared
        else sql.SQL("DO NOTHING"),
    )


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values: times to the microsecond, in UTC if without a zone; maps and structs as JSON texts."""
    if pa.types.is_struct(column.type) or pa.types.is_map(column.type):
        return [value if value is None else json.dumps(dict(value)) for value in column.to_pylist()]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(TIME)
    values: list[Any] = column.to_pylist()
    return values


_TYPE_NAMES = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.binary(): "bytea",
    pa.large_binary(): "bytea",
    pa.date32(): "date",
    pa.time64("us"): "time",
    pa.null(): "text",
}
#: Rows per INSERT.
_BLOCK = 10_000


def create_table(
    config: PostgreSQLConfig, name: str, batches: pa.RecordBatchReader, *, replace: bool
) -> None:
    """Create a table of `batches`, atomically; `name` may be qualified with a schema.

    Raises:
        SavedDatasetLocationAlreadyExists: the table exists, and `replace` is false. Nothing has changed.
    """
    table = sql.SQL(name)  # as Feast reads it: quoted by whoever needs quotes
    kinds = {field.name: _type_name(field.type) for field in batches.schema}
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in kinds.items()
    )
    with open_connection(config) as connection:
        if replace:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        try:
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))
        except psycopg.errors.DuplicateTable as error:
            raise SavedDatasetLocationAlreadyExists(name) from error
        for batch in batches:
            for first in range(0, batch.num_rows, _BLOCK):
                _insert(connection, table, kinds, batch.slice(first, _BLOCK))


def _insert(
    connection: psycopg.Connection[Any], table: sql.SQL, kinds: dict[str, str], rows: pa.RecordBatch
) -> None:
    comma = sql.SQL(", ")
    values = [column.to_pylist() for column in rows.columns]
    if any(kind.endswith("[]") for kind in kinds.values()):
        # `unnest` would flatten the lists, too
        command = sql.SQL("INSERT INTO {} VALUES ({})").format(
            table, comma.join([sql.SQL("%s")] * len(kinds))
        )
        with connection.cursor() as cursor:
            cursor.executemany(command, list(zip(*values, strict=True)))
        return
    arrays = comma.join(sql.SQL("%s::{}[]").format(sql.SQL(kind)) for kind in kinds.values())
    connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM unnest({})").format(table, arrays), values)


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_list(kind):
        return f"{_type_name(kind.value_type)}[]"
    return _TYPE_NAMES[kind]

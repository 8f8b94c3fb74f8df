"""New tables from Arrow rows, in one transaction, on servers without `COPY … FROM STDIN`, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from psycopg import sql

from feast_plugins.postgres.connection import open_connection

if TYPE_CHECKING:
    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig

_NAMES = {
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
#: Rows of an INSERT.
_BLOCK = 10_000


def create_table(
    config: PostgreSQLConfig, name: str, batches: pa.RecordBatchReader, *, replace: bool
) -> None:
    """Create a table of `batches`, all of it or nothing; `name` may carry a schema.

    Raises:
        SavedDatasetLocationAlreadyExists: it is there, and `replace` is false. Nothing has changed.
    """
    table = sql.SQL(name)  # as Feast reads it: quoted by whoever needs quotes
    kinds = {field.name: _name(field.type) for field in batches.schema}
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
        # `unnest` would take the lists apart, too
        command = sql.SQL("INSERT INTO {} VALUES ({})").format(
            table, comma.join([sql.SQL("%s")] * len(kinds))
        )
        with connection.cursor() as cursor:
            cursor.executemany(command, list(zip(*values, strict=True)))
        return
    arrays = comma.join(sql.SQL("%s::{}[]").format(sql.SQL(kind)) for kind in kinds.values())
    connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM unnest({})").format(table, arrays), values)


def _name(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_list(kind):
        return f"{_name(kind.value_type)}[]"
    return _NAMES[kind]

"""Results of queries as Arrow tables and streams."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from feast_plugins.postgres.types import conform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adbc_driver_manager import dbapi
    from psycopg import sql

    Query = str | sql.Composable

#: Bytes of a batch: small enough to stay in the processor's cache while it is decoded.
_BATCH = {"adbc.postgresql.batch_size_hint_bytes": str(1 << 20)}
_WITHOUT_COPY = {"adbc.postgresql.use_copy": "false"}


@contextmanager
def stream(connection: dbapi.Connection, query: Query) -> Iterator[pa.RecordBatchReader]:
    """Rows of `query` as they arrive, in batches of about 1 MiB; see `fetch` for their types."""
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**_BATCH)
        cursor.execute(text(query))
        found = cursor.fetch_record_batch()
        schema, conversions = conform(found.schema)
        yield pa.RecordBatchReader.from_batches(
            schema,
            (
                pa.record_batch(
                    [
                        column if conversion is None else conversion(column)
                        for column, conversion in zip(batch.columns, conversions, strict=True)
                    ],
                    schema=schema,
                )
                for batch in found
            ),
        )


def fetch(connection: dbapi.Connection, query: Query) -> pa.Table:
    """Rows of `query` with the types that Feast names for those of Postgres.

    Times are in UTC. JSON and UUIDs, which Feast's own reader cannot give, are text.
    """
    with stream(connection, query) as batches:
        return batches.read_all()


def fetch_value(connection: dbapi.Connection, query: Query) -> object:
    """First value of the only row of a statement that cannot be read by COPY, such as EXPLAIN."""
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**_WITHOUT_COPY)
        cursor.execute(text(query))
        row = cursor.fetchone()
    return row[0] if row else None


def schema(connection: dbapi.Connection, query: Query) -> pa.Schema:
    """Columns of `query`, which is not run, as ADBC describes them."""
    with connection.cursor() as cursor:
        return cursor.adbc_execute_schema(text(query))


def text(query: Query) -> str:
    """SQL text of a query; literals in it need no session to be quoted."""
    return query if isinstance(query, str) else query.as_string(None)

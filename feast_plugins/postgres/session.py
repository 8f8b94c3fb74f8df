"""Sessions with Postgres, by psycopg and by ADBC, and the rows of queries as Arrow.

A query's rows come as the stream of a binary `COPY … TO STDOUT`, decoded into Arrow in C. A pooler can be
between: no setting outlives a transaction. Feast's own connections give the search path as a start-up option,
which PgBouncer refuses, and prepare statements, which another session does not know.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import adbc_driver_postgresql
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import AdbcConnection, AdbcDatabase, dbapi
from feast.infra.offline_stores.contrib.postgres_offline_store import postgres_source
from feast.infra.utils.postgres import connection_utils
from feast.infra.utils.postgres.connection_utils import _get_conninfo
from psycopg import sql
from psycopg.conninfo import make_conninfo

from feast_plugins.errors import QueryTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    Conversion = Callable[[pa.Array], pa.Array]
    from collections.abc import Iterator

    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig

    Query = str | sql.Composable


#: Times of results; a time without a zone is UTC, as everywhere in Feast.
TIME = pa.timestamp("us", tz="UTC")
_TYPE_NAME = b"POSTGRESQL:type"
_UUID_PARTS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))


def type_name(field: pa.Field) -> str:
    """Postgres' name of the type of a column that ADBC read; an array's begins with `_`."""
    return str((field.metadata or {}).get(_TYPE_NAME, b"").decode())


def conform(schema: pa.Schema) -> tuple[pa.Schema, list[Conversion | None]]:
    """Feast's types of the columns that ADBC reads with `schema`, and how to convert each that differs."""
    fields, conversions = [], []
    for field in schema:
        kind, conversion = _conform(field.type, type_name(field).removeprefix("_"))
        fields.append(pa.field(field.name, kind))
        conversions.append(conversion)
    return pa.schema(fields), conversions


def _conform(found: pa.DataType, name: str) -> tuple[pa.DataType, Conversion | None]:
    if pa.types.is_list(found):
        kind, conversion = _conform(found.value_type, name)
        return pa.list_(kind), conversion and _of_items(conversion)
    return _CONFORMED.get(name, (found, None))


def _cast(kind: pa.DataType) -> tuple[pa.DataType, Conversion]:
    return kind, lambda values: values.cast(kind)


def _of_items(conversion: Conversion) -> Conversion:
    def convert(lists: pa.ListArray) -> pa.ListArray:
        mask = lists.is_null() if lists.null_count else None
        return pa.ListArray.from_arrays(lists.offsets, conversion(lists.values), mask=mask)

    return convert


def _storage(values: pa.ExtensionArray) -> pa.Array:
    return values.storage


def _numbers(values: pa.ExtensionArray) -> pa.Array:
    return values.storage.cast(pa.float64())


def _uuid_texts(values: pa.ExtensionArray) -> pa.Array:
    """Canonical text of each (RFC 9562, section 4)."""
    digits = pa.array([value and value.hex() for value in values.storage.to_pylist()], pa.string())
    return pc.binary_join_element_wise(*(pc.utf8_slice_codeunits(digits, *part) for part in _UUID_PARTS), "-")


#: Where Feast's type for a Postgres type is not the one that ADBC gives.
_CONFORMED: dict[str, tuple[pa.DataType, Conversion | None]] = {
    "numeric": (pa.float64(), _numbers),
    "json": (pa.string(), _storage),
    "jsonb": (pa.string(), _storage),
    "uuid": (pa.string(), _uuid_texts),
    "int2": _cast(pa.int32()),
    "date": _cast(pa.timestamp("us")),
    "timestamp": _cast(TIME),
}


def open_connection(config: PostgreSQLConfig) -> psycopg.Connection[Any]:
    """A connection whose present transaction, and no other, has the search path of `config`."""
    connection = psycopg.connect(
        connection_utils._get_conninfo(config),  # noqa: SLF001  # Feast has no public way to it
        prepare_threshold=None,
        **options(config),
    )
    connection.execute("SELECT set_config('search_path', %s, true)", [search_path(config)])
    return connection


def options(config: PostgreSQLConfig) -> dict[str, Any]:
    """Arguments of a connection besides who and where."""
    given = connection_utils._get_conn_kwargs(config) | {"keepalives_idle": config.keepalives_idle}  # noqa: SLF001
    return {name: value for name, value in given.items() if value is not None and name != "options"}


def search_path(config: PostgreSQLConfig) -> str:
    """The search path that Feast gives its sessions."""
    path = (config.db_schema or config.user).strip()
    return path if path == "public" else f"{path},public"


def use_in_sources() -> None:
    """Let Feast's Postgres source, which asks the database for columns by itself, connect like this.

    Feast's own offline store is left as it is: it wants connections that no transaction has begun on.
    """
    # there is no option for it, and users declare Feast's class, not one of ours
    source: Any = postgres_source
    source._get_conn = open_connection  # noqa: SLF001


_QUERY_CANCELED = "57014"
#: How often a server at work looks whether its client is still there. It ends the work of one that is not.
_CHECK_CLIENT_MS = 2000
#: Of this transaction: a pooler's sessions are not ours, and those of some servers share one backend.
_SETTINGS = sql.SQL(
    "SELECT set_config('client_connection_check_interval', {}, true), "
    "set_config('statement_timeout', {}, true), set_config('search_path', {}, true)"
)


@contextmanager
def connect(config: PostgreSQLConfig, timeout_s: float | None = None) -> Iterator[dbapi.Connection]:
    """One read-only transaction, in which all queries see the same state; an interrupt cancels its query.

    A statement longer than `timeout_s` (0 and None: however long) ends on the server, too. If this process is
    killed, the server notices within seconds and stops.

    Raises:
        QueryTimeoutError: a statement ran longer than `timeout_s`.
    """
    database = _database(make_conninfo(_get_conninfo(config), **options(config)))
    timeout_ms = math.ceil((timeout_s or 0) * 1000)
    # the driver sends BEGIN and COMMIT in one message each; every other statement takes several, which must
    # meet the same session
    with dbapi.Connection(database, AdbcConnection(database), autocommit=False) as connection:
        _execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        settings = map(sql.Literal, (str(_CHECK_CLIENT_MS), str(timeout_ms), search_path(config)))
        _execute(connection, _SETTINGS.format(*settings).as_string(None))
        try:
            yield connection
            connection.adbc_connection.set_autocommit(True)
        except (dbapi.Error, OSError) as error:
            if timeout_s and _is_timeout(error):
                raise QueryTimeoutError(timeout_s) from error
            raise


def _execute(connection: dbapi.Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _is_timeout(error: dbapi.Error | OSError) -> bool:
    """An error in the middle of a stream comes through Arrow, as an `OSError` without a code."""
    if isinstance(error, dbapi.Error):
        return bool(error.sqlstate == _QUERY_CANCELED)
    return "statement timeout" in str(error)


class _KeptDatabase(AdbcDatabase):
    """Stays open when a connection that used it closes, because it costs ten times what a connection does."""

    def close(self) -> None:
        """Nothing; it holds no connection."""


@lru_cache(maxsize=16)
def _database(conninfo: str) -> AdbcDatabase:
    return _KeptDatabase(driver=adbc_driver_postgresql._driver_path(), uri=conninfo)  # noqa: SLF001  # `connect` of its dbapi module offers no database


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

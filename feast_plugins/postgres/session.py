"""Postgres sessions, by psycopg and by ADBC, and the rows of queries as Arrow.

Rows of a query are streamed by a binary `COPY … TO STDOUT` and decoded into Arrow in C. Poolers are
supported: no setting outlives a transaction. Feast's own connections pass the search path as a start-up
option, which PgBouncer refuses, and prepare statements, which do not exist in another session of the pool.
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
_UUID_GROUPS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))


def type_name(field: pa.Field) -> str:
    """Postgres' type name of a column that ADBC read; that of an array begins with `_`."""
    return str((field.metadata or {}).get(_TYPE_NAME, b"").decode())


def conform(schema: pa.Schema) -> tuple[pa.Schema, list[Conversion | None]]:
    """`schema` of ADBC with Feast's types, and a conversion of each column whose type differs (else None)."""
    fields, conversions = [], []
    for field in schema:
        kind, conversion = _conform(field.type, type_name(field).removeprefix("_"))
        fields.append(pa.field(field.name, kind))
        conversions.append(conversion)
    return pa.schema(fields), conversions


def _conform(read_type: pa.DataType, name: str) -> tuple[pa.DataType, Conversion | None]:
    if pa.types.is_list(read_type):
        kind, conversion = _conform(read_type.value_type, name)
        return pa.list_(kind), conversion and _of_items(conversion)
    return _CONFORMED.get(name, (read_type, None))


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
    """Canonical text of UUIDs (RFC 9562, section 4)."""
    digits = pa.array([value and value.hex() for value in values.storage.to_pylist()], pa.string())
    return pc.binary_join_element_wise(
        *(pc.utf8_slice_codeunits(digits, *bounds) for bounds in _UUID_GROUPS), "-"
    )


#: Postgres types that Feast reads as other types than ADBC.
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
    """A connection whose first transaction, and no later one, has the search path of `config`."""
    connection = psycopg.connect(
        connection_utils._get_conninfo(config),  # noqa: SLF001  # Feast has no public way to it
        prepare_threshold=None,
        **options(config),
    )
    connection.execute("SELECT set_config('search_path', %s, true)", [search_path(config)])
    return connection


def options(config: PostgreSQLConfig) -> dict[str, Any]:
    """Arguments of a connection besides address, database and user."""
    arguments = connection_utils._get_conn_kwargs(config) | {"keepalives_idle": config.keepalives_idle}  # noqa: SLF001
    return {name: value for name, value in arguments.items() if value is not None and name != "options"}


def search_path(config: PostgreSQLConfig) -> str:
    """The search path of Feast's sessions."""
    path = (config.db_schema or config.user).strip()
    return path if path == "public" else f"{path},public"


def use_in_sources() -> None:
    """Let Feast's Postgres source, which queries the database for its columns, use `open_connection`.

    Feast's own offline store is unchanged: it needs connections without an open transaction.
    """
    # Feast has no option for it, and users declare Feast's class, not one of ours
    source: Any = postgres_source
    source._get_conn = open_connection  # noqa: SLF001


_QUERY_CANCELED = "57014"
#: How often the server checks that the client of a running query is connected; it cancels the query if not.
_CHECK_CLIENT_MS = 2000
#: Local to the transaction: a pooler's sessions are shared, and those of some servers share one backend.
_SETTINGS = sql.SQL(
    "SELECT set_config('client_connection_check_interval', {}, true), "
    "set_config('statement_timeout', {}, true), set_config('search_path', {}, true)"
)


@contextmanager
def connect(config: PostgreSQLConfig, timeout_s: float | None = None) -> Iterator[dbapi.Connection]:
    """One read-only transaction, whose queries all read the same state; an interrupt cancels its query.

    The server cancels a statement that runs longer than `timeout_s` seconds (0 and None: no limit), and
    within seconds the query of a process that was killed.

    Raises:
        QueryTimeoutError: a statement ran longer than `timeout_s`.
    """
    database = _database(make_conninfo(_get_conninfo(config), **options(config)))
    timeout_ms = math.ceil((timeout_s or 0) * 1000)
    # the driver sends BEGIN and COMMIT in one message each; every other statement takes several, which a
    # pooler must pass to the same session, so they are sent within a transaction
    with dbapi.Connection(database, AdbcConnection(database), autocommit=False) as connection:
        _execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        settings = map(sql.Literal, (str(_CHECK_CLIENT_MS), str(timeout_ms), search_path(config)))
        _execute(connection, _SETTINGS.format(*settings).as_string(None))
        try:
            if (start := getattr(config, "transaction_start", None)) is not None:
                _execute(connection, start)
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
    """Whether the statement timed out; within a stream Arrow raises an `OSError` without SQLSTATE."""
    if isinstance(error, dbapi.Error):
        return bool(error.sqlstate == _QUERY_CANCELED)
    return "statement timeout" in str(error)


class _SharedDatabase(AdbcDatabase):
    """Stays open when a connection of it closes, because it costs ten times as much as a connection."""

    def close(self) -> None:
        """Do nothing: no connection is held."""


@lru_cache(maxsize=16)
def _database(conninfo: str) -> AdbcDatabase:
    return _SharedDatabase(driver=adbc_driver_postgresql._driver_path(), uri=conninfo)  # noqa: SLF001  # `connect` of its dbapi module offers no database


#: Bytes per batch: small enough to stay in the processor's cache while it is decoded.
_BATCH = {"adbc.postgresql.batch_size_hint_bytes": str(1 << 20)}
_WITHOUT_COPY = {"adbc.postgresql.use_copy": "false"}


@contextmanager
def stream(connection: dbapi.Connection, query: Query) -> Iterator[pa.RecordBatchReader]:
    """Rows of `query` as they arrive, in batches of about 1 MiB; see `fetch` for their types."""
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**_BATCH)
        cursor.execute(text(query))
        reader = cursor.fetch_record_batch()
        schema, conversions = conform(reader.schema)
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
                for batch in reader
            ),
        )


def fetch(connection: dbapi.Connection, query: Query) -> pa.Table:
    """Rows of `query`, with Feast's types of the Postgres types.

    Times are in UTC. JSON and UUIDs, which Feast's own reader cannot read, are text.
    """
    with stream(connection, query) as batches:
        return batches.read_all()


def fetch_value(connection: dbapi.Connection, query: Query) -> object:
    """First value of the only row of a statement that COPY does not support, such as EXPLAIN."""
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
    """SQL text of a query; its literals are quoted without a session."""
    return query if isinstance(query, str) else query.as_string(None)

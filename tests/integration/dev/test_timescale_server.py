"""The embedded TimescaleDB behaves like a server with many backends, though it has one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg2
import pytest
import sqlalchemy
from psycopg import sql

from ai_hub.dev.timescale_server import TimescaleService
from ai_hub.servers import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def table(dsn: str, tenant: str) -> Iterator[str]:
    name = tenant.replace("-", "_")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE TABLE {} (n int)").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))


def run_client(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A client process of its own; returns after it printed a line."""
    client = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    return client


def kill(client: subprocess.Popen[bytes]) -> None:
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert client.stdout is not None
    client.stdout.close()


def test_server__wrong_password__refused(dsn: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn, password="wrong")


def test_server__unknown_database__refused(dsn: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="one database: postgres"):
        psycopg.connect(dsn, dbname="other")


def test_server__same_statement_name_on_two_connections__kept_apart(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as a, psycopg.connect(dsn, autocommit=True) as b:
        for _ in range(3):
            assert a.execute("SELECT 'a' || %s::text", ("1",), prepare=True).fetchone() == ("a1",)
            assert b.execute("SELECT 'b' || %s::text", ("2",), prepare=True).fetchone() == ("b2",)
        # psycopg frees every statement when a transaction is rolled back: only its own may go.
        a.execute("DEALLOCATE ALL")
        assert b.execute("SELECT 'b' || %s::text", ("3",), prepare=True).fetchone() == ("b3",)


def test_server__unnamed_statement__survives_other_clients(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as a, psycopg.connect(dsn, autocommit=True) as b:
        a.pgconn.prepare(b"", b"SELECT 'a' || $1::text")
        b.pgconn.prepare(b"", b"SELECT 'b' || $1::text")
        b.execute("SELECT 1")
        assert a.pgconn.exec_prepared(b"", [b"1"]).get_value(0, 0) == b"a1"
        assert b.pgconn.exec_prepared(b"", [b"2"]).get_value(0, 0) == b"b2"


def test_server__open_transaction__others_wait_for_its_end(dsn: str, table: str) -> None:
    insert = sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier(table))
    count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
    seen: list[tuple[int, ...] | None] = []
    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as reader:
        writer.execute(insert)
        waiting = threading.Thread(target=lambda: seen.append(reader.execute(count).fetchone()))
        waiting.start()
        # The end of a savepoint is not the end of the transaction.
        with pytest.raises(psycopg.errors.UndefinedColumn), writer.transaction():
            writer.execute("SELECT no_such_column")
        time.sleep(0.3)
        assert seen == []
        writer.execute(insert)
        writer.commit()
        waiting.join(10)
        assert seen == [(2,)]


def test_server__settings__stay_with_their_connection(dsn: str) -> None:
    tenant = "SELECT current_setting('app.tenant', true)"
    with psycopg.connect(dsn, autocommit=True) as a, psycopg.connect(dsn, autocommit=True) as b:
        a.execute("SET app.tenant = 'a'")
        assert b.execute(tenant).fetchone() in {(None,), ("",)}
        b.execute("SELECT set_config('app.tenant', 'b', false)")
        assert a.execute(tenant).fetchone() == ("a",)
        assert b.execute(tenant).fetchone() == ("b",)
    with psycopg.connect(dsn, autocommit=True) as c:
        assert c.execute(tenant).fetchone() in {(None,), ("",)}


def test_server__failed_set__leaves_nothing_behind(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as a:
        with pytest.raises(psycopg.errors.UndefinedObject):
            a.execute("SET no_such_setting = 1")
        with psycopg.connect(dsn) as b:
            assert b.execute("SELECT 1").fetchone() == (1,)
        assert a.execute("SELECT 2").fetchone() == (2,)


def test_server__start_up_options__applied(dsn: str) -> None:
    with psycopg.connect(dsn, options="-c search_path=pg_catalog -c statement_timeout=1234") as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog",)
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1234ms",)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_server__unknown_start_up_option__named(dsn: str) -> None:
    with (
        psycopg.connect(dsn, options="-c nonsense_option=1") as connection,
        pytest.raises(psycopg.OperationalError, match="nonsense_option"),
    ):
        connection.execute("SELECT 1")


def test_server__reset__keeps_planner_defaults(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute("RESET ALL")
        assert connection.execute("SHOW enable_seqscan").fetchone() == ("on",)


def test_server__temporary_tables__end_with_their_connection(dsn: str) -> None:
    for _ in range(2):
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TEMP TABLE scratch (n int)")


def test_server__copy_from_stdin__refused_and_alive(dsn: str, table: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        copy = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
        with (
            pytest.raises(psycopg.errors.FeatureNotSupported, match="unnest"),
            connection.cursor() as cursor,
            cursor.copy(copy) as stream,
        ):
            stream.write_row((1,))
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_server__copy_to_stdout__works(dsn: str) -> None:
    with (
        psycopg.connect(dsn) as connection,
        connection.cursor() as cursor,
        cursor.copy("COPY (SELECT generate_series(1, 3)) TO STDOUT") as stream,
    ):
        assert [row[0] for row in stream.rows()] == ["1", "2", "3"]


def test_server__error_in_pipeline__skips_to_its_end(dsn: str) -> None:
    def work(connection: psycopg.Connection[Any]) -> None:
        with connection.pipeline():
            for statement in ("SELECT 1", "SELECT no_such_column", "SELECT 2"):
                connection.execute(statement)

    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            work(connection)
        assert connection.execute("SELECT 3").fetchone() == (3,)


def test_server__server_side_cursor__streams(dsn: str) -> None:
    with psycopg.connect(dsn) as connection, connection.cursor("numbers") as cursor:
        cursor.execute("SELECT generate_series(1, 25000)")
        assert sum(row[0] for row in cursor) == 25000 * 25001 // 2


def test_server__large_message_and_answer__whole(dsn: str) -> None:
    numbers = list(range(200_000))
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT unnest(%s::int[])", (numbers,)).fetchall()
    assert [row[0] for row in rows] == numbers


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_server__pool_of_threads__loses_nothing(dsn: str, table: str, driver: str) -> None:
    url = sqlalchemy.make_url(dsn).set(drivername=f"postgresql+{driver}")
    engine = sqlalchemy.create_engine(url, pool_size=8)

    def work(_: int) -> None:
        for _ in range(10):
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text(f'INSERT INTO "{table}" VALUES (:n)'), {"n": 1})  # noqa: S608

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    with engine.connect() as connection:
        total = connection.execute(sqlalchemy.text(f'SELECT sum(n) FROM "{table}"')).scalar()  # noqa: S608
    engine.dispose()
    assert total == 80


def test_server__psycopg2__default_ssl_mode(dsn: str) -> None:
    connection = psycopg2.connect(dsn, sslmode="prefer")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s", ("ü",))
        assert cursor.fetchone() == ("ü",)
    connection.close()


def test_server__client_killed_in_transaction__rolled_back(dsn: str, table: str) -> None:
    code = (
        "import psycopg, sys, time\n"
        "c = psycopg.connect(sys.argv[1])\n"
        "c.execute(f'INSERT INTO {sys.argv[2]} VALUES (1)')\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    kill(run_client(code, dsn, table))
    with psycopg.connect(dsn) as connection:
        found = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
        assert found.fetchone() == (0,)


def test_server__client_killed_in_query__next_one_works(dsn: str) -> None:
    code = (
        "import psycopg, sys\n"
        "c = psycopg.connect(sys.argv[1])\n"
        "print('ready', flush=True); c.execute('SELECT pg_sleep(1)')"
    )
    client = run_client(code, dsn)
    time.sleep(0.3)
    kill(client)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_server__cancel_while_waiting__ends_the_wait(dsn: str) -> None:
    with psycopg.connect(dsn) as owner, psycopg.connect(dsn) as other:
        owner.execute("SELECT 1")
        threading.Timer(0.3, other.cancel_safe).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute("SELECT 2")
        other.rollback()
        owner.rollback()
        assert other.execute("SELECT 3").fetchone() == (3,)


def test_check__transaction_of_another_client__told_apart_from_dead(dsn: str) -> None:
    service = TimescaleService()
    with psycopg.connect(dsn) as owner:
        owner.execute("SELECT 1")
        with pytest.raises(NotReadyError, match="maybe busy"):
            service.check({"TIMESCALE_DSN": dsn}, 0.5)
        owner.rollback()
        service.check({"TIMESCALE_DSN": dsn}, 5)


def test_server__many_connections__each_answered(dsn: str) -> None:
    connections = [psycopg.connect(dsn, autocommit=True) for _ in range(60)]
    try:
        for number, connection in enumerate(connections):
            assert connection.execute("SELECT %s::int", (number,)).fetchone() == (number,)
    finally:
        for connection in connections:
            connection.close()


def test_server__client_with_a_search_path__leaves_the_next_one_alone(dsn: str) -> None:
    with psycopg.connect(dsn, options="-c search_path=pg_catalog") as other:
        assert other.execute("SHOW search_path").fetchone() == ("pg_catalog",)
    with psycopg.connect(dsn) as mine:
        assert mine.execute("SHOW search_path").fetchone() == ("public",)


def test_server__opened_again__has_the_community_part(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE community (at timestamptz NOT NULL)")
        connection.execute("SELECT create_hypertable('community', by_range('at'))")
        connection.execute("SELECT add_retention_policy('community', INTERVAL '1 day')")
        connection.execute("DROP TABLE community")

"""What is left of a read whose client or server is killed, or that takes too long: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from adbc_driver_manager import dbapi
from conformance.history import FRAMES
from conformance.online import client, contents
from conformance.rows import HOUR, T0
from conformance.stores import STOCK, shipped
from conformance.test_jobs import pull
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from feast_plugins.errors import QueryTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.stores import Hosts, Pair
    from feast import FeatureStore

DB = 9
UPLOADED = "relname LIKE 'feast_entity_df_%'"
SPAN = (T0 - 9 * HOUR, T0 + 9 * HOUR)


@contextmanager
def patience(address: str, seconds: float) -> Iterator[psycopg.Connection]:
    """Slow views take so long meanwhile; yields a connection to look on."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("UPDATE patience SET seconds = %s", [seconds])
        try:
            yield connection
        finally:
            with wait_for(lambda: reconnect(address)) as another:
                for pid in reads(another):
                    another.execute("SELECT pg_terminate_backend(%s)", [pid])
                another.execute("UPDATE patience SET seconds = 0")


def reconnect(address: str) -> psycopg.Connection | None:
    """A connection, as soon as the server is back."""
    try:
        return psycopg.connect(address, autocommit=True)
    except psycopg.OperationalError:
        return None


def reads(connection: psycopg.Connection) -> set[int]:
    """Servers' processes at work for a slow view."""
    found = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    return {pid for (pid,) in found.fetchall()}


def wait_for(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def count(connection: psycopg.Connection, condition: str) -> int:
    """Tables that meet a condition."""
    found = connection.execute(f"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND {condition}")  # noqa: S608  # made here
    (number,) = found.fetchone() or (0,)
    return int(number)


@pytest.mark.long
def test_client_killed__its_queries_end_and_a_new_run_completes(
    pair: Pair, hosts: Hosts, address: str
) -> None:
    """Also a deliberate difference: stock's query goes on, and the table of its entity rows stays."""
    del pair
    with client(hosts, DB) as connection:
        connection.flushdb()
    program = Path(__file__).with_name("killed.py")
    arguments = {"postgres": hosts.postgres, "redis_url": hosts.redis_url, "registry": str(hosts.registry)}
    with (
        patience(address, 600) as server,
        subprocess.Popen(
            [sys.executable, str(program), json.dumps(arguments | {"db": DB})],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (program.parents[1], *sys.path)))},
        ) as process,
    ):
        uploaded = count(server, UPLOADED)
        started = json.loads(process.stdout.readline() if process.stdout else b"")
        try:
            wait_for(lambda: len(reads(server)) == len(started))
        finally:
            for pid in started.values():
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(reads(server)) <= 1)
        (left,) = reads(server)
        query = server.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [left]).fetchone()
        assert "entity_row_unique_id" in str(query)  # stock's
        wait_for(lambda: count(server, "relpersistence = 't'") == 0)
        assert count(server, UPLOADED) == uploaded + 1
    hosts.open(shipped(), db=DB).materialize(*SPAN, feature_views=["slow"])
    again = contents(hosts, DB)
    hosts.open(STOCK, db=DB).materialize(*SPAN, feature_views=["slow"])
    assert contents(hosts, DB) == again != {}


def ask(store: FeatureStore, **options: Any) -> Any:
    return store.get_historical_features(FRAMES["one"], ["slow:load"]).to_arrow(**options)


@pytest.mark.parametrize("join", ["probe", "range"])
def test_timeout_of_the_store__says_so_and_ends_the_query(
    pair: Pair, hosts: Hosts, address: str, join: str
) -> None:
    del pair
    options = {"join_strategy": join, "statement_timeout_s": 0.3}
    limited = hosts.open(shipped(), offline=options)
    with patience(address, 600) as server:
        with pytest.raises(QueryTimeoutError, match=r"within 0\.3 s"):
            ask(limited)
        with pytest.raises(QueryTimeoutError, match=r"within 0\.3 s"):
            pull(limited, "all", "slow", SPAN).to_arrow()
        assert not reads(server)
    assert ask(limited).num_rows == 1


def test_deliberate_difference__timeouts_of_jobs_are_kept(pair: Pair, address: str) -> None:
    with patience(address, 1.2) as server:
        assert ask(pair.stock, timeout=1).num_rows == 1
        with pytest.raises(QueryTimeoutError, match="within 1 s"):
            ask(pair.ours, timeout=1)
        assert not reads(server)


def test_server_killed__says_so_and_nothing_half_written_is_left(
    pair: Pair, address: str, tmp_path: Path
) -> None:
    """One of the server's processes is killed, upon which all of them end."""
    path = tmp_path / "saved" / "stuck.parquet"
    storage = SavedDatasetFileStorage(str(path))
    problems: list[Exception] = []

    def persist() -> None:
        try:
            pull(pair.ours, "all", "stuck", SPAN).persist(storage)
        except (dbapi.Error, OSError) as error:
            problems.append(error)

    with patience(address, 600) as server:
        work = Thread(target=persist)
        work.start()
        (process,) = wait_for(lambda: list(path.parent.glob("*")) and reads(server))
        assert not path.exists()
        os.kill(process, signal.SIGKILL)
        work.join(20)
    assert "server closed the connection unexpectedly" in str(problems[0])
    assert list(path.parent.glob("*")) == []
    pull(pair.ours, "all", "stuck", SPAN).persist(storage)
    assert [file.name for file in path.parent.glob("*")] == ["stuck.parquet"]

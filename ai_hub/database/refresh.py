"""Brings `ai_features` up to date for what changed since the last refresh."""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg

from ai_hub.database.connection import connect, shares_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

#: Feature rows computed in one transaction: bounds memory and how long others wait.
BATCH_ROWS = 5_000
#: Sessions that compute batches at the same time, each of its own assets.
SESSIONS = 2
_TRY_LOCK: Final = (
    "SELECT pg_try_advisory_xact_lock(feature_refresh_lock())"
    " FROM set_config('idle_in_transaction_session_timeout', '0', true)"
)
#: Each computes a batch of rows: of the contract's features, then of declared views.
_COMPUTE: Final = (
    "SELECT * FROM compute_feature_batch(%s, %s, %s)",
    "SELECT * FROM compute_declared_batch(%s, %s, %s)",
)
_LOOK_AGAIN_S: Final = 0.5
_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refreshed:
    """What one refresh did: rows computed, and those of them that came out new or different."""

    rows: int
    changed: int


def refresh(
    *,
    since: datetime | None = None,
    dsn: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    aggregating: Callable[[int, int], None] | None = None,
) -> Refreshed:
    """Compute the feature rows that new, late or corrected readings and weather touch.

    With `since`, every row and aggregate from then on is recomputed. Calls `aggregating(done, total)` in
    weeks of aggregates, then `progress(done, total)` in rows. Waits for another refresh that is running;
    killed midway, the next call goes on.
    """
    with (
        _alone(dsn),
        connect(dsn, autocommit=True, application_name="ai-hub refresh") as connection,
    ):
        (started,) = _row(connection, "SELECT clock_timestamp()", [])
        plan, total = _row(connection, "SELECT * FROM plan_feature_refresh(%s)", [since])
        windows = connection.execute("SELECT * FROM feature_aggregate_windows(%s)", [since]).fetchall()
        for number, (start, end) in enumerate(windows, start=1):
            anew = since is not None and start is not None
            connection.execute("CALL refresh_feature_aggregates(%s, %s, %s)", [start, end, anew])
            if aggregating:
                aggregating(number, len(windows))
        connection.execute("SELECT release_feature_plan(%s)", [plan])
        connection.execute("SELECT analyze_features(%s)", [total])
        done = changed = 0
        for query in _COMPUTE:
            for computed, differing in _batches(connection, dsn, query):
                done, changed = done + computed, changed + differing
                if progress:
                    progress(done, max(total, done))
        connection.execute("SELECT record_feature_refresh(%s, %s, %s)", [started, done, changed])
        connection.execute("SELECT analyze_features(%s)", [total])
    return Refreshed(done, changed)


def _batches(
    connection: psycopg.Connection, dsn: str | None, batch: LiteralString
) -> Iterator[tuple[int, int]]:
    """Compute what is planned, in several sessions; rows computed and changed of each batch that is done."""
    with ExitStack() as stack:
        connection.add_notice_handler(_log)
        sessions = [connection]
        for _ in range(1, SESSIONS):
            other = connect(dsn, autocommit=True, application_name="ai-hub refresh")
            other.add_notice_handler(_log)
            sessions.append(stack.enter_context(other))
        pool = stack.enter_context(ThreadPoolExecutor(SESSIONS, "refresh"))

        def start(number: int) -> Future[tuple[Any, ...]]:
            return pool.submit(_row, sessions[number], batch, [BATCH_ROWS, number, SESSIONS])

        running = {start(number): number for number in range(SESSIONS)}
        while running:
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(finished)
                computed, changed = finished.result()
                if computed:
                    running[start(number)] = number
                    yield computed, changed


def _log(notice: psycopg.errors.Diagnostic) -> None:
    """What the server warns of: rows of a declared view that cannot be computed."""
    if notice.severity_nonlocalized == "WARNING":
        _logger.warning("%s", notice.message_primary)


@contextmanager
def _alone(dsn: str | None) -> Iterator[None]:
    """Wait for other refreshes, and keep them waiting.

    A transaction beside the work holds the lock: the work has several, and a session may not be ours alone.
    It has no snapshot, so nothing else waits for it. Whoever waits looks again, and holds no connection of a
    pooler meanwhile.
    """
    with connect(dsn, application_name="ai-hub refresh lock") as lock:
        if shares_backend(lock):  # everything would wait for the transaction, and nobody else refreshes
            lock.rollback()
            yield
            return
        while lock.execute(_TRY_LOCK).fetchone() != (True,):
            lock.rollback()
            time.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            with suppress(psycopg.OperationalError):  # it went away, and the lock with it
                lock.rollback()


def _row(connection: psycopg.Connection, query: LiteralString, parameters: list[object]) -> tuple[Any, ...]:
    row = connection.execute(query, parameters).fetchone()
    if row is None:
        raise AssertionError(f"{query} returns one row")
    return row

"""Brings `ai_features` up to date for what changed since the last refresh."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from ai_hub.database.connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import psycopg

#: Feature rows computed in one transaction: bounds memory and how long others wait.
BATCH_ROWS = 5_000
#: Sessions that compute batches at the same time, each of its own assets.
SESSIONS = 2


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
    with connect(dsn, autocommit=True, application_name="ai-hub refresh") as connection:
        connection.execute("SELECT pg_advisory_lock(feature_refresh_lock())")
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
        for batch in _batches(connection, dsn):
            done, changed = done + batch[0], changed + batch[1]
            if progress:
                progress(done, max(total, done))
        connection.execute("SELECT record_feature_refresh(%s, %s, %s)", [started, done, changed])
        connection.execute("SELECT analyze_features(%s)", [total])
        connection.execute("SELECT pg_advisory_unlock(feature_refresh_lock())")
    return Refreshed(done, changed)


def _batches(connection: psycopg.Connection, dsn: str | None) -> Iterator[tuple[int, int]]:
    """Compute what is planned, in several sessions; rows computed and changed of each batch that is done."""
    with ExitStack() as stack:
        sessions = [connection]
        for _ in range(1, SESSIONS):
            other = connect(dsn, autocommit=True, application_name="ai-hub refresh")
            sessions.append(stack.enter_context(other))
        pool = stack.enter_context(ThreadPoolExecutor(SESSIONS, "refresh"))

        def start(number: int) -> Future[tuple[Any, ...]]:
            batch = "SELECT * FROM compute_feature_batch(%s, %s, %s)"
            return pool.submit(_row, sessions[number], batch, [BATCH_ROWS, number, SESSIONS])

        running = {start(number): number for number in range(SESSIONS)}
        while running:
            for batch in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(batch)
                computed, changed = batch.result()
                if computed:
                    running[start(number)] = number
                    yield computed, changed


def _row(connection: psycopg.Connection, query: LiteralString, parameters: list[object]) -> tuple[Any, ...]:
    row = connection.execute(query, parameters).fetchone()
    if row is None:
        raise AssertionError(f"{query} returns one row")
    return row

"""Brings feature rows up to date for what changed since the last refresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime  # of a dataclass
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg

from ai_hub.db.connection import connect, is_pooled, shares_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    _Batch = Callable[[psycopg.Connection, int, int], tuple[int, int]]

#: Feature rows computed in one transaction: bounds memory and how long others wait.
BATCH_ROWS = 5_000
#: Fewer planned rows are computed in one session.
_FEWEST_SHARED_ROWS: Final = 500
#: Ranges of hours whose forecasts are scored in one transaction.
_SCORED_RANGES: Final = 2_000
#: Sessions that compute batches at the same time, each of its own assets.
SESSIONS = 2
_TRY_LOCK: Final = (
    "SELECT pg_try_advisory_{}({}()) FROM set_config('idle_in_transaction_session_timeout', '0', true)"
)
_REFRESH, _HISTORY = "feature_refresh_lock", "declared_history_lock"
_ANY_LONG: Final = (
    "SELECT EXISTS (SELECT FROM declared_due WHERE end_hour >= first_hour + INTERVAL '48 hours')"
)
_SCORES: Final = "forecast_scores_lock"
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
    session: psycopg.Connection | None = None,
    progress: Callable[[int, int], None] | None = None,
    aggregating: Callable[[int, int], None] | None = None,
) -> Refreshed:
    """Compute the feature rows that new, late or corrected readings and weather touch.

    With `since`, every row and aggregate from then on is recomputed. Calls `aggregating(done, total)` in
    weeks of aggregates, then `progress(done, total)` in rows. Waits for another refresh that is running;
    killed midway, the next call goes on. Whoever refreshes often keeps a `session` to the server of `dsn`
    (see `open_session`): what a new one has to read and to plan first takes longer than a few rows.
    """
    with ExitStack() as stack:
        connection = session or stack.enter_context(open_session(dsn))
        connection.add_notice_handler(_log)
        stack.callback(connection.remove_notice_handler, _log)
        run = _Run(connection, dsn, progress, aggregating)
        with _lock(connection, dsn, _REFRESH):
            run.changes(since)
        with _lock(connection, dsn, _SCORES, waits=False) as is_ours:
            while is_ours and _row(connection, "SELECT score_forecasts(%s)", [_SCORED_RANGES]) != (0,):
                pass
        if run.is_pending():
            # rows that are computed when they are read: other refreshes need not wait, nor compute them, too
            with _lock(connection, dsn, _HISTORY, waits=False) as is_ours:
                stored = 0
                while is_ours and (rows := run.history()):
                    stored += rows
                    if not run.is_pending(since=run.plan):
                        break
                    # another refresh has planned the rest anew, and may not have come to release it
                    with _lock(connection, dsn, _REFRESH):
                        run.changes(None)
                connection.execute("SELECT analyze_declared(%s)", [stored])
    return Refreshed(run.done, run.changed)


def open_session(dsn: str | None = None) -> psycopg.Connection:
    """A session for `refresh`, of one thread at a time."""
    session = connect(dsn, autocommit=True, application_name="ai-hub refresh")
    session.prepare_threshold = None  # migrations meanwhile may change what its statements answer
    return session


@dataclass
class _Run:
    """A refresh: what it has done so far."""

    connection: psycopg.Connection
    dsn: str | None
    progress: Callable[[int, int], None] | None
    aggregating: Callable[[int, int], None] | None
    #: before the plan was made, whose changes are seen
    started: datetime | None = None
    plan: int = 0
    total: int = 0
    done: int = 0
    changed: int = 0

    def changes(self, since: datetime | None) -> None:
        """Bring what is stored up to date, and plan what is not."""
        connection = self.connection
        (self.started,) = _row(connection, "SELECT clock_timestamp()", [])
        self.plan, total = _row(connection, "SELECT * FROM plan_feature_refresh(%s)", [since])
        self.total = self.done + total
        windows = connection.execute("SELECT * FROM feature_aggregate_windows(%s)", [since]).fetchall()
        for number, (start, end) in enumerate(windows, start=1):
            anew = since is not None and start is not None
            connection.execute("CALL refresh_feature_aggregates(%s, %s, %s)", [start, end, anew])
            if self.aggregating:
                self.aggregating(number, len(windows))
        connection.execute("SELECT release_feature_plan(%s)", [self.plan])
        connection.execute("SELECT analyze_features(%s)", [total])
        self._store(_of_changes, _in_columns("long"))
        connection.execute("SELECT analyze_declared(%s)", [self.done])

    def history(self) -> int:
        """Store rows of long ranges of which nothing is stored; how many."""
        before = self.done
        self._store(_in_columns("history"))
        return self.done - before

    def is_pending(self, *, since: int = 0) -> bool:
        """Whether ranges of declared views are left, of later plans than this."""
        query = "SELECT EXISTS (SELECT FROM declared_refresh_ranges WHERE plan_id > %s)"
        return _row(self.connection, query, [since]) == (True,)

    def _store(self, *batches: _Batch) -> None:
        """Compute what is planned, and note that it was: who follows refreshes has something to read."""
        before = self.done, self.changed
        self._compute(*batches)
        self.connection.execute(
            "SELECT record_feature_refresh(%s, %s, %s)",
            [self.started, self.done - before[0], self.changed - before[1]],
        )

    def _compute(self, *batches: _Batch) -> None:
        """Compute what is planned, in several sessions."""
        with ExitStack() as stack:
            sessions = [self.connection]
            # a session takes longer to start than few rows; those of the embedded server wait for each other
            is_alone = self.total < _FEWEST_SHARED_ROWS or shares_backend(self.connection)
            for _ in range(1, 1 if is_alone else SESSIONS):
                other = stack.enter_context(open_session(self.dsn))
                other.add_notice_handler(_log)
                sessions.append(other)
            pool = stack.enter_context(ThreadPoolExecutor(len(sessions), "refresh"))
            for batch in batches:
                running = {
                    pool.submit(batch, session, number, len(sessions)): number
                    for number, session in enumerate(sessions)
                }
                while running:
                    for finished in wait(running, return_when=FIRST_COMPLETED).done:
                        number = running.pop(finished)
                        computed, changed = finished.result()
                        if computed:
                            self.done, self.changed = self.done + computed, self.changed + changed
                            if self.progress:
                                self.progress(self.done, max(self.total, self.done))
                            running[pool.submit(batch, sessions[number], number, len(sessions))] = number


def _of_changes(connection: psycopg.Connection, session: int, sessions: int) -> tuple[int, int]:
    """Compute a batch of short ranges of declared views; rows computed and changed."""
    row = _row(
        connection,
        "SELECT * FROM compute_declared_batch(%s, %s, %s, '{short}')",
        [BATCH_ROWS, session, sessions],
    )
    return row[0], row[1]


def _in_columns(kind: str) -> _Batch:
    """Computes a batch of long ranges of declared views, of a kind as `declared_due` has it."""

    def compute(connection: psycopg.Connection, session: int, sessions: int) -> tuple[int, int]:
        if _row(connection, _ANY_LONG, []) != (True,):
            return 0, 0
        from feast_plugins.windows import history  # noqa: PLC0415  # imports Feast, which takes seconds

        copies = not shares_backend(connection)
        return history.compute_batch(connection, kind, session, sessions, copies=copies)

    return compute


def _log(notice: psycopg.errors.Diagnostic) -> None:
    """What the server warns of: rows of a declared view that cannot be computed."""
    if notice.severity_nonlocalized == "WARNING":
        _logger.warning("%s", notice.message_primary)


@contextmanager
def _lock(
    connection: psycopg.Connection, dsn: str | None, name: str, *, waits: bool = True
) -> Iterator[bool]:
    """Hold a lock that keeps others waiting; whether we have it, should it not wait for those that do.

    The session holds it. That of a pooler may not be ours alone, so there a transaction beside the work does,
    which has no snapshot, so nothing else waits for it. Whoever waits looks again, and holds no connection of
    the pooler meanwhile.
    """
    if shares_backend(connection):  # nobody else refreshes
        yield True
        return
    lock, kind = connection, "lock"
    with ExitStack() as stack:
        if is_pooled(connection):
            lock = stack.enter_context(connect(dsn, application_name="ai-hub refresh lock"))
            kind = "xact_lock"
        query = _TRY_LOCK.format(kind, name).encode()
        while not (is_ours := lock.execute(query).fetchone() == (True,)) and waits:
            lock.rollback()
            time.sleep(_LOOK_AGAIN_S)
        try:
            yield is_ours
        finally:
            with suppress(psycopg.OperationalError):  # it went away, and the lock with it
                if is_ours and lock is connection:
                    lock.execute(f"SELECT pg_advisory_unlock({name}())".encode())
                lock.rollback()


def _row(connection: psycopg.Connection, query: LiteralString, parameters: list[object]) -> tuple[Any, ...]:
    row = connection.execute(query, parameters).fetchone()
    if row is None:
        raise AssertionError(f"{query} returns one row")
    return row

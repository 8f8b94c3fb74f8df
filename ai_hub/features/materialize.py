"""Keeps Redis as fresh as the features: after each refresh, the newest row of each asset it changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pyarrow as pa
import redis.exceptions
import sqlalchemy.exc
from redis import RedisCluster
from redis.exceptions import RedisClusterException, ResponseError
from tenacity import Retrying, retry_if_exception, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from ai_hub.db.connection import connect
from ai_hub.db.refresh import open_session
from ai_hub.db.refresh import refresh as refresh_features
from ai_hub.errors import NotFoundError, ServiceDownError
from ai_hub.features.checks import newest_rows_checks, record_newest
from ai_hub.features.freshness import Behind, readings_behind
from ai_hub.features.newest import EVERYBODY, Scope, followed_views, is_pushed, newest_rows
from ai_hub.features.store import asset_key, online_client, set_followed
from ai_hub.features.validation import violation_lines
from feast_plugins.materialize.run import Materialization, writer_of
from feast_plugins.online.writing import meanings_key
from feast_plugins.postgres import session

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from feast import FeatureStore, FeatureView
    from psycopg import Connection
    from tenacity import RetryCallState

    from ai_hub.features.checks import NewestRowsCheck


#: Rows asked about at once.
_BATCH: Final = 5_000
_ASSETS: Final = "SELECT tenant_id, asset_id FROM asset_spans"
_FORGET: Final = "DELETE FROM feature_demand WHERE asked_at < now() - INTERVAL '1 day'"
_NOTE: Final = """
INSERT INTO feature_demand (tenant_id, asset_id, asked_at)
SELECT tenant_id, asset_id, now() - idle * INTERVAL '1 second'
FROM unnest(%s::text[], %s::text[], %s::integer[]) AS asked (tenant_id, asset_id, idle)
ORDER BY tenant_id, asset_id
ON CONFLICT (tenant_id, asset_id) DO UPDATE SET asked_at = excluded.asked_at
"""


def note_demand(connection: Connection[Any], store: FeatureStore, within_s: float) -> None:
    """Note the assets whose rows in Redis were read in the last `within_s` seconds.

    Rows must not have been written since then. Notes nothing where Redis counts uses instead
    (`maxmemory-policy` with LFU).
    """
    assets = connection.execute(_ASSETS).fetchall()
    connection.commit()  # the embedded server makes others wait for an open transaction
    client = online_client(store)
    asked: list[tuple[str, str, int]] = []
    for first in range(0, len(assets), _BATCH):
        part = assets[first : first + _BATCH]
        with client.pipeline(transaction=False) as pipe:
            for asset in part:
                pipe.object("IDLETIME", asset_key(store, *asset))
            try:
                idle = pipe.execute()
            except (ResponseError, RedisClusterException):
                return
        asked += [
            (*asset, seconds)
            for asset, seconds in zip(part, idle, strict=True)
            if seconds is not None and seconds <= within_s
        ]
    connection.execute(_FORGET)
    connection.execute(_NOTE, [list(column) for column in zip(*asked, strict=True)] or [[], [], []])
    connection.commit()


# Two refreshes can overlap, so the oldest start counts. One that was killed left rows behind and no entry
# here, so rows count from the end of the last refresh that was followed.
_UNSEEN = """
SELECT max(refresh_id), max(finished_at), min(started_at), max(started_at), count(*) FROM feature_refreshes
WHERE refresh_id > %s
"""
# A reading is stamped when its transaction begins, and may be committed so much later.
_LONG_WRITE = timedelta(minutes=10)
#: How often is asked which rows are read.
_DEMAND_S = 300
_LAST = "SELECT refresh_id, finished_at FROM feature_refreshes ORDER BY refresh_id DESC LIMIT 1"


@dataclass(frozen=True)
class Seen:
    """The last refresh that was followed, and what tells whether Redis still has its rows."""

    #: its run, and what features of declared views mean: `feast apply` deletes rows of another meaning
    redis_state: tuple[str | bytes | None, ...]
    refresh_id: int = 0
    finished_at: datetime | None = None


@dataclass(frozen=True)
class Pass:
    """What one pass did."""

    #: refreshes it followed; None: everything was read, whatever refreshes there were
    refreshes: int | None
    #: rows written by feature view
    rows: dict[str, int] = field(default_factory=dict)
    #: newest reading behind each row written of the features
    behind: list[Behind] = field(default_factory=list)
    seconds: float = 0.0
    #: rows that were not written, as they break limits whose policy is to refuse
    refused: int = 0
    #: a line for each feature that breaks its limits, and those that no open finding told before
    violations: list[str] = field(default_factory=list)
    new_violations: list[str] = field(default_factory=list)


def materialize(store: FeatureStore, scope: Scope = EVERYBODY) -> Pass:
    """Put the newest row of each asset that is within its view's time to live into Redis."""
    with connect(application_name="ai-hub materialize") as connection:
        return _write(connection, store, scope, since=None, refreshes=None, ages=False)


class Follower:
    """Follows the refreshes. Any number of them side by side do no harm, and none keeps a state outside."""

    def __init__(self, store: FeatureStore, scope: Scope = EVERYBODY, *, ages: bool = True) -> None:
        """With `ages`, passes tell the newest reading behind each row, which costs a probe a row."""
        self._store = store
        self._scope = scope
        self._ages = ages
        #: None: read everything, first of all and after a failure
        self._seen: Seen | None = None
        #: all rows that there were at this time are in Redis
        self._through = datetime.now(UTC)
        self._written = self._demand_noted = time.monotonic()

    def catch_up(self) -> Pass:
        """Write what the refreshes since the last call changed."""
        before, self._seen = self._seen, None
        redis_state = (_redis_run(self._store), *_meanings(self._store))
        with connect(application_name="ai-hub materialize") as connection:
            last = Seen(redis_state, *(connection.execute(_LAST).fetchone() or ()))
            # numbers that went back are those of another database, and a new run of Redis may be empty
            if before is None or last.refresh_id < before.refresh_id or redis_state != before.redis_state:
                self._through = datetime.now(UTC)
                done = self._write(connection, since=None, refreshes=None)
                self._end(last)
                return done
            newest, finished, since, through, count = (
                connection.execute(_UNSEEN, [before.refresh_id]).fetchone() or ()
            )
            if not count:
                self._note_demand(connection)
                self._end(before)
                return Pass(refreshes=0)
            since = min(since, before.finished_at or since)
            done = self._write(connection, since=since, refreshes=count)
        self._through = max(self._through, through)
        self._end(Seen(redis_state, newest, finished))
        return done

    def _write(self, connection: Connection[Any], *, since: datetime | None, refreshes: int | None) -> Pass:
        done = _write(connection, self._store, self._scope, since=since, refreshes=refreshes, ages=self._ages)
        self._written = time.monotonic()
        return done

    def _note_demand(self, connection: Connection[Any]) -> None:
        """Every few minutes in which nothing is new: which rows were read since they were written."""
        now = time.monotonic()
        if self._scope == EVERYBODY and now - self._demand_noted > _DEMAND_S:
            note_demand(connection, self._store, now - max(self._written, self._demand_noted) - 1)
            self._demand_noted = now

    def _end(self, seen: Seen) -> None:
        self._seen = seen
        if self._scope == EVERYBODY:
            set_followed(online_client(self._store), self._store.project, self._through)


def _meanings(store: FeatureStore) -> tuple[bytes | None, ...]:
    with online_client(store).pipeline(transaction=False) as pipe:
        for view in followed_views(store):
            pipe.get(meanings_key(store.project, view.name))
        return tuple(pipe.execute())


def _redis_run(store: FeatureStore) -> str:
    """What is different after each start of Redis, or when others have become masters."""
    client = online_client(store)
    if isinstance(client, RedisCluster):
        runs: Any = client.info("server", target_nodes=RedisCluster.PRIMARIES)
        # of one master redis-py returns it alone
        masters = [runs] if "run_id" in runs else runs.values()
        return " ".join(sorted(each["run_id"] for each in masters))
    server = client.info()
    if server["role"] != "master":  # no more; sentinels say who is, to a new connection
        client.connection_pool.disconnect()
        server = client.info()
    return str(server["run_id"])


def _write(
    connection: Connection[Any],
    store: FeatureStore,
    scope: Scope,
    *,
    since: datetime | None,
    refreshes: int | None,
    ages: bool,
) -> Pass:
    started, now = time.monotonic(), datetime.now(UTC)
    views = {view.name: view for view in followed_views(store)}
    if not views:
        raise NotFoundError(
            "No feature view is registered yet.", hint='Run `eval "$(ai-hub env)"`, then `feast apply`.'
        )
    keys: dict[str, pa.Table] = {}
    checks = newest_rows_checks(views.values(), now)
    # the embedded server makes others wait for an open transaction, and writers may ask it
    connection.commit()
    writers = {name: writer_of(store, view) for name, view in views.items()}
    with session.connect(store.config.offline_store) as reads:
        for name, view in views.items():
            start = since - _LONG_WRITE if since and is_pushed(view) else since
            with newest_rows(reads, view, now, since=start, scope=scope) as rows:
                keys[name] = _write_rows(store, view, writers[name], rows, checks.get(name))
    behind: list[Behind] = []
    for name, view in views.items():
        if ages and not is_pushed(view):  # whose newest readings come from elsewhere, too
            behind += readings_behind(connection, view, keys[name])
    connection.commit()
    outcome = record_newest(connection, checks.values())
    counts = {name: rows.num_rows for name, rows in keys.items()}
    return Pass(
        refreshes,
        counts,
        behind,
        time.monotonic() - started,
        sum(check.refused for check in checks.values()),
        violation_lines(outcome.violations),
        violation_lines(outcome.new),
    )


def _write_rows(
    store: FeatureStore,
    view: FeatureView,
    writer: Materialization | None,
    rows: pa.RecordBatchReader,
    check: NewestRowsCheck | None,
) -> pa.Table:
    """Write those rows with the columns of `newest_rows` that the check accepts, in batches.

    Returns their keys and event times.
    """
    source = view.batch_source
    assert source is not None  # noqa: S101  # views without one are not followed
    stamps = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
    names = [*view.join_keys, *(field.name for field in view.features), *stamps]
    kept = [*range(len(view.join_keys)), names.index(source.timestamp_field)]
    written: list[pa.RecordBatch] = []

    def noted() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            accepted = check.accepted(batch, names, source.timestamp_field) if check else batch
            written.append(accepted.select(kept))
            yield accepted

    if writer is not None and writer.fits(rows.schema):
        writer.write(noted())
    else:
        found = pa.Table.from_batches(noted(), rows.schema).rename_columns(names)
        if found.num_rows:
            store.write_to_online_store(view.name, found.to_pandas())
    schema = pa.schema([rows.schema.field(at) for at in kept])
    return pa.Table.from_batches(written, schema).rename_columns([names[at] for at in kept])


_OUTAGES = (
    ServiceDownError,
    psycopg.OperationalError,
    # Feast's registry
    sqlalchemy.exc.OperationalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)
_LONGEST_WAIT_S = 60


def follow(
    follower: Follower,
    stop: threading.Event,
    *,
    interval: float,
    refresh: bool,
    on_pass: Callable[[Pass], None],
    on_outage: Callable[[BaseException, float], None],
) -> None:
    """Make a pass every `interval` seconds until `stop` is set; a pass under way is finished first.

    With `refresh`, features are refreshed before each pass. While a server is down, passes are tried again
    after growing waits, each told to `on_outage` with the error and the seconds until the next try.
    """

    def told(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None and state.next_action is not None:
            on_outage(error, state.next_action.sleep)

    kept: Connection[Any] | None = None

    def attempt() -> None:
        nonlocal kept
        if refresh:
            if kept is None or kept.closed:
                kept = open_session()
            refresh_features(session=kept)
        on_pass(follower.catch_up())

    try:
        while not stop.is_set():
            Retrying(
                retry=retry_if_exception(_is_outage),
                wait=wait_exponential(max=_LONGEST_WAIT_S),
                stop=stop_when_event_set(stop),
                sleep=sleep_using_event(stop),
                before_sleep=told,
                retry_error_callback=lambda _: None,
            )(attempt)
            stop.wait(interval)
    finally:
        if kept is not None:
            kept.close()


def _is_outage(error: BaseException) -> bool:
    # a wrong password stays wrong
    return isinstance(error, _OUTAGES) and not isinstance(error, redis.exceptions.AuthenticationError)

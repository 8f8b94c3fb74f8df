"""Keeps Redis as fresh as the features: after each refresh, the newest row of each asset it changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from redis import RedisCluster

from ai_hub.database.connection import connect
from ai_hub.errors import NotFoundError
from ai_hub.features.demand import note_demand
from ai_hub.features.freshness import Behind, readings_behind
from ai_hub.features.newest import EVERYBODY, Scope, followed_views, is_pushed, newest_rows
from ai_hub.features.redis_keys import online_client, set_followed
from feast_plugins.materialize.run import writer_of
from feast_plugins.postgres import session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore, FeatureView
    from psycopg import Connection

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
    """The last refresh that was followed, and the run of Redis that has its rows."""

    redis_run: str
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
        redis_run = _redis_run(self._store)
        with connect(application_name="ai-hub materialize") as connection:
            last = Seen(redis_run, *(connection.execute(_LAST).fetchone() or ()))
            # numbers that went back are those of another database, and a new run of Redis may be empty
            if before is None or last.refresh_id < before.refresh_id or redis_run != before.redis_run:
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
        self._end(Seen(redis_run, newest, finished))
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
    # the embedded server makes others wait for an open transaction
    connection.commit()
    with session.connect(store.config.offline_store) as reads:
        for name, view in views.items():
            start = since - _LONG_WRITE if since and is_pushed(view) else since
            with newest_rows(reads, view, now, since=start, scope=scope) as rows:
                keys[name] = _write_rows(store, view, rows)
    behind: list[Behind] = []
    for name, view in views.items():
        if ages and not is_pushed(view):  # whose newest readings come from elsewhere, too
            behind += readings_behind(connection, view, keys[name])
    connection.commit()
    counts = {name: rows.num_rows for name, rows in keys.items()}
    return Pass(refreshes, counts, behind, time.monotonic() - started)


def _write_rows(store: FeatureStore, view: FeatureView, rows: pa.RecordBatchReader) -> pa.Table:
    """Write rows with the columns of `newest_rows`, in batches. Returns their keys and event times."""
    source = view.batch_source
    assert source is not None  # noqa: S101  # views without one are not followed
    stamps = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
    names = [*view.join_keys, *(field.name for field in view.features), *stamps]
    kept = [*range(len(view.join_keys)), names.index(source.timestamp_field)]
    written: list[pa.RecordBatch] = []

    def noted() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            written.append(batch.select(kept))
            yield batch

    writer = writer_of(store, view)
    if writer is not None and writer.fits(rows.schema):
        writer.write(noted())
    else:
        found = pa.Table.from_batches(noted(), rows.schema).rename_columns(names)
        if found.num_rows:
            store.write_to_online_store(view.name, found.to_pandas())
    schema = pa.schema([rows.schema.field(at) for at in kept])
    return pa.Table.from_batches(written, schema).rename_columns([names[at] for at in kept])

"""Keeps Redis as fresh as the features: after each refresh, the newest row of each asset it changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from redis import RedisCluster

from ai_hub.database.connection import connect
from ai_hub.errors import NotFoundError
from ai_hub.features.followed import note_followed
from ai_hub.features.forget import online_client
from ai_hub.features.freshness import Behind, readings_behind
from ai_hub.features.newest import EVERYBODY, Scope, followed_views, is_pushed, newest_rows
from feast_plugins.postgres import session

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore
    from psycopg import Connection

# Two refreshes can overlap, so the oldest start counts. One that was killed left rows behind and no entry
# here, so rows count from the end of the last refresh that was followed.
_UNSEEN = """
SELECT max(refresh_id), max(finished_at), min(started_at), max(started_at), count(*) FROM feature_refreshes
WHERE refresh_id > %s
"""
# A reading is stamped when its transaction begins, and may be committed so much later.
_LONG_WRITE = timedelta(minutes=10)
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
        return _write(connection, store, scope, since=None, refreshes=None)


class Follower:
    """Follows the refreshes. Any number of them side by side do no harm, and none keeps a state outside."""

    def __init__(self, store: FeatureStore, scope: Scope = EVERYBODY) -> None:
        self._store = store
        self._scope = scope
        #: None: read everything, first of all and after a failure
        self._seen: Seen | None = None
        #: all rows that there were at this time are in Redis
        self._through = datetime.now(UTC)

    def catch_up(self) -> Pass:
        """Write what the refreshes since the last call changed."""
        before, self._seen = self._seen, None
        redis_run = _redis_run(self._store)
        with connect(application_name="ai-hub materialize") as connection:
            last = Seen(redis_run, *(connection.execute(_LAST).fetchone() or ()))
            # numbers that went back are those of another database, and a new run of Redis may be empty
            if before is None or last.refresh_id < before.refresh_id or redis_run != before.redis_run:
                self._through = datetime.now(UTC)
                done = _write(connection, self._store, self._scope, since=None, refreshes=None)
                self._end(last)
                return done
            newest, finished, since, through, count = (
                connection.execute(_UNSEEN, [before.refresh_id]).fetchone() or ()
            )
            if not count:
                self._end(before)
                return Pass(refreshes=0)
            since = min(since, before.finished_at or since)
            done = _write(connection, self._store, self._scope, since=since, refreshes=count)
        self._through = max(self._through, through)
        self._end(Seen(redis_run, newest, finished))
        return done

    def _end(self, seen: Seen) -> None:
        self._seen = seen
        if self._scope == EVERYBODY:
            note_followed(online_client(self._store), self._store.project, self._through)


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
) -> Pass:
    started, now = time.monotonic(), datetime.now(UTC)
    views = {view.name: view for view in followed_views(store)}
    if not views:
        raise NotFoundError(
            "No feature view is registered yet.", hint='Run `eval "$(ai-hub env)"`, then `feast apply`.'
        )
    found: dict[str, pa.Table] = {}
    behind: list[Behind] = []
    # the embedded server makes others wait for an open transaction
    connection.commit()
    with session.connect(store.config.offline_store) as reads:
        for name, view in views.items():
            start = since - _LONG_WRITE if since and is_pushed(view) else since
            found[name] = newest_rows(reads, view, now, since=start, scope=scope)
    for name, view in views.items():
        if not is_pushed(view):  # whose newest readings come from elsewhere, too
            behind += readings_behind(connection, view, found[name])
    connection.commit()
    for name, rows in found.items():
        if rows.num_rows:
            store.write_to_online_store(name, rows.to_pandas())
    counts = {name: rows.num_rows for name, rows in found.items()}
    return Pass(refreshes, counts, behind, time.monotonic() - started)

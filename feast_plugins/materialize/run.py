"""One feature view from Postgres to Redis: reading, encoding and writing at the same time.

How far a run came is kept in the Redis that it fills: a Redis that loses its rows loses this, too. In a
cluster the two may be on different nodes, so there a run that was killed is repeated from its start. Feast's
materialization tasks become runs here, for any engine.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from adbc_driver_manager import dbapi
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from feast.repo_config import FeastConfigBaseModel
from feast.utils import make_tzaware
from pydantic import Field
from redis.cluster import RedisCluster

from feast_plugins.errors import ColumnTypesError, HistoryNotKnownError, InterruptedMaterializationError
from feast_plugins.materialize.plan import Done, Encoder, ViewPlan, latest, plan
from feast_plugins.materialize.resp import Stored
from feast_plugins.materialize.shards import Channel, Shards, open_channel
from feast_plugins.offline_store import TimescaleOfflineStore
from feast_plugins.online.writing import expiry
from feast_plugins.online_store import CorrectableRedisOnlineStore
from feast_plugins.postgres.session import connect, fetch_value, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from feast import FeatureStore, FeatureView, RepoConfig
    from feast.infra.offline_stores.offline_store import OfflineStore
    from feast.infra.online_stores.online_store import OnlineStore
    from feast.infra.registry.base_registry import BaseRegistry


class Stop:
    """A flag, and the queries that are cancelled when it is set."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._connections: set[dbapi.Connection] = set()

    def set(self) -> None:
        """End every run before its next batch, and its query at once."""
        self._event.set()
        for connection in list(self._connections):
            _cancel(connection)

    def is_set(self) -> bool:
        """Whether runs are to end."""
        return self._event.is_set()

    @contextmanager
    def cancels(self, connection: dbapi.Connection) -> Iterator[None]:
        """Let a query of `connection` not outlive the flag, nor a failure of the block."""
        self._connections.add(connection)
        try:
            yield
        except BaseException:
            _cancel(connection)
            raise
        finally:
            self._connections.discard(connection)


def _cancel(connection: dbapi.Connection) -> None:
    with suppress(dbapi.Error):  # nothing ran any more
        connection.adbc_cancel()


@dataclass
class Checkpoint:
    """Of one feature view."""

    channel: Channel
    project: str
    view: str
    #: of the plan; what another plan wrote does not count
    identity: str
    #: how long the rows of this run may be relied on
    seconds: float
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    @property
    def _key(self) -> bytes:
        return key_of(self.project, self.view)

    def load(self, start: datetime) -> Done | None:
        """What an earlier run has done of a run that starts at `start`; None: nothing to rely on."""
        left_ms = int(self.channel.ask(b"PTTL", self._key) or 0)
        text = self.channel.ask(b"GET", self._key)
        if not isinstance(text, bytes) or left_ms <= 0:
            return None
        kept = json.loads(text)
        if kept["identity"] != self.identity or datetime.fromisoformat(kept["start"]) > start:
            return None
        # rows of the earlier run are as old as that
        self._until = min(self._until, time.monotonic() + left_ms / 1000)
        return Done(
            kept["last"], datetime.fromisoformat(kept["end"]), datetime.fromisoformat(kept["read_at"])
        )

    def save(self, start: datetime, done: Done) -> None:
        """Keep what is done for as long as it can be relied on."""
        left_ms = int((self._until - time.monotonic()) * 1000)
        if left_ms <= 0:
            self.clear()
            return
        kept = {
            "identity": self.identity,
            "start": start.isoformat(),
            "last": done.last,
            "end": done.end.isoformat(),
            "read_at": done.read_at.isoformat(),
        }
        self.channel.ask(b"SET", self._key, json.dumps(kept).encode(), b"PX", b"%d" % left_ms)

    def clear(self) -> None:
        """Forget it: nothing is left to be resumed."""
        self.channel.ask(b"DEL", self._key)


def key_of(project: str, view: str) -> bytes:
    """Redis key of a view's checkpoint."""
    return b"feast_plugins:materialize:" + hashlib.sha256(json.dumps([project, view]).encode()).digest()


#: The database's time; and rows of parallel workers cost the planner a tenth, because Redis waits for the
#: sort before the first row, which several processes do sooner.
_PREPARE = "SELECT now()::text, set_config('parallel_tuple_cost', '0.01', true)"
#: Encoded batches that may wait for Redis.
_AHEAD = 2
#: How long after it stamped its rows a transaction may commit them.
_COMMIT_DELAY = timedelta(minutes=10)
#: So much shorter than that of its rows is the life of a checkpoint, which must not outlive them.
_TTL_SHARE = 10


@dataclass(frozen=True)
class Materialization:
    """Of one feature view."""

    encoder: Encoder
    postgres: PostgreSQLConfig
    #: redis-py's, of one server or of a cluster
    redis: Any
    start: datetime
    end: datetime
    #: how long the query may run; None: as long as it takes
    query_s: float | None
    #: rows that are encoded and sent at once
    batch_rows: int
    #: how long Redis may be silent
    timeout_s: float
    #: how long what a killed run has written may be relied on
    resume_s: float
    #: called with the number of rows done
    progress: Callable[[int], Any]
    #: set to end the run before its next batch
    stop: Stop

    def run(self) -> None:
        """Write the newest row of each entity.

        Raises:
            ColumnTypesError: a column has a type that only Feast's engine can try; nothing has been written.
            InterruptedMaterializationError: it was told to stop.
            QueryTimeoutError: the query took longer than it may.
            redis.RedisError: Redis is gone, silent, or refuses.
        """
        with ExitStack() as stack:
            checkpoint = self._checkpoint(stack)
            connection = stack.enter_context(connect(self.postgres, self.query_s))
            stack.enter_context(self.stop.cancels(connection))
            done = None if checkpoint is None else checkpoint.load(self.start)
            now = str(fetch_value(connection, _PREPARE))
            reached = Done([], self.end, datetime.fromisoformat(now).astimezone(UTC))
            query = latest(self.encoder.plan.source, self.start, self.end, done, _COMMIT_DELAY)
            with stream(connection, query) as batches:
                _require(self.encoder.plan.fits(batches.schema), ColumnTypesError(self.encoder.plan.name))
                if not self.encoder.plan.is_resumable(batches.schema):
                    checkpoint = None
                self._pump(iter(batches), checkpoint, reached)
            if checkpoint:
                checkpoint.clear()

    def fits(self, schema: pa.Schema) -> bool:
        """Whether `write` can encode the columns."""
        return self.encoder.plan.fits(schema)

    def write(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Write these rows, at most one of each entity, with the columns of the view's source.

        Raises:
            redis.RedisError: Redis is gone, silent, or refuses.
        """
        self._pump(batches, None, Done([], self.end, self.end))

    def _checkpoint(self, stack: ExitStack) -> Checkpoint | None:
        """Where to keep how far the run came, if the rows it leaves can be relied on."""
        plan = self.encoder.plan
        if not self.resume_s or not self.encoder.check or isinstance(self.redis, RedisCluster):
            return None
        seconds = min(self.resume_s, plan.ttl_seconds / _TTL_SHARE) if plan.ttl_seconds else self.resume_s
        channel = stack.enter_context(open_channel(self.redis, self.timeout_s))
        return Checkpoint(channel, self.encoder.project, plan.name, plan.identity, seconds)

    def _pump(self, batches: Iterator[pa.RecordBatch], checkpoint: Checkpoint | None, reached: Done) -> None:
        with (
            Shards(self.redis, self.timeout_s) as checks,
            Shards(self.redis, self.timeout_s) as shards,
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(1, "write") as writer,
        ):
            stored = Stored(checks, self.encoder.plan.time_field)

            def write(batch: pa.RecordBatch, keys: pa.BinaryArray, commands: pa.BinaryArray) -> int:
                shards.write(keys, commands, self.encoder.replies)
                if checkpoint:
                    last = [batch.column(column)[-1].as_py() for column in self.encoder.plan.source.keys]
                    checkpoint.save(self.start, Done(last, reached.end, reached.read_at))
                return len(batch)

            under_way: deque[Future[int]] = deque()
            try:
                for batch in self._parts(batches, reader):
                    under_way.append(writer.submit(write, batch, *self.encoder.encode(batch, stored)))
                    if len(under_way) > _AHEAD:
                        self.progress(under_way.popleft().result())
                while under_way:
                    self.progress(under_way.popleft().result())
            finally:
                for future in under_way:
                    future.cancel()

    def _parts(
        self, batches: Iterator[pa.RecordBatch], reader: ThreadPoolExecutor
    ) -> Iterator[pa.RecordBatch]:
        """The rows in parts that are not too large, read one batch ahead."""
        ahead = reader.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            for first in range(0, len(batch), self.batch_rows):
                _require(not self.stop.is_set(), InterruptedMaterializationError(self.encoder.plan.name))
                yield batch.slice(first, self.batch_rows)


def _require(condition: bool, error: Exception) -> None:
    if not condition:
        raise error


#: Stores whose ways of reading and writing are known here; of those that override them nothing is.
_PULLS = (
    PostgreSQLOfflineStore.pull_latest_from_table_or_query,
    TimescaleOfflineStore.pull_latest_from_table_or_query,
)
_WRITES = (RedisOnlineStore.online_write_batch, CorrectableRedisOnlineStore.online_write_batch)


class WriteOptions(FeastConfigBaseModel):
    """Options of every engine that writes this way."""

    batch_rows: int = Field(10_000, ge=1)
    """Rows that are encoded and sent at once; Feast's `online_write_batch_size` goes before."""

    redis_timeout_seconds: float = Field(60, gt=0)
    """How long Redis may be silent before a materialization fails."""


def way_of(
    view: FeatureView,
    config: RepoConfig,
    offline: OfflineStore,
    online: OnlineStore,
    registry: BaseRegistry,
) -> ViewPlan | None:
    """The fast way of a feature view, if there is one that does what the stores do."""
    known = (
        type(online).online_write_batch in _WRITES and type(offline).pull_latest_from_table_or_query in _PULLS
    )
    found = plan(view, config) if known else None
    if found is None or not isinstance(online, CorrectableRedisOnlineStore):
        return found
    # views with the same keys share a hash, which lives as long as the most patient of them wants
    views = registry.list_feature_views(config.project, allow_cache=True)
    lives = [expiry(found.ttl_seconds, each) or 0 for each in (view, *views)]
    return replace(found, ttl_seconds=max(lives) or None)


def client_of(online: OnlineStore, config: RepoConfig) -> Any:
    """The Redis client of the online store."""
    store: Any = online
    return store._get_client(config.online_store)  # noqa: SLF001  # nobody else connects as it does


def writer_of(store: FeatureStore, view: FeatureView) -> Materialization | None:
    """What writes rows of a feature view that are read elsewhere; None: only Feast itself can."""
    config, provider = store.config, store._get_provider()  # noqa: SLF001  # Feast has no public way to it
    offline, online = provider.offline_store, provider.online_store
    way = way_of(view, config, offline, online, store.registry)
    if way is None or not isinstance(config.batch_engine, WriteOptions):
        return None
    now = datetime.now(UTC)
    task = MaterializationTask(store.project, view, now, now, tqdm_builder=None)
    return materialization(task, way, config, online, progress=lambda _: None)


def materialization(
    task: MaterializationTask,
    way: ViewPlan,
    config: RepoConfig,
    online: OnlineStore,
    *,
    progress: Callable[[int], Any],
    resume_s: float = 0,
    stop: Stop | None = None,
) -> Materialization:
    """What the task asks for, ready to run.

    Raises:
        HistoryNotKnownError: the offline store is open as of an earlier time.
    """
    store, options = config.offline_store, config.batch_engine
    if getattr(store, "known_at", None) is not None:
        raise HistoryNotKnownError(
            "This store shows features as known at an earlier time, which are nothing to serve. "
            "Materialize without `known_at`."
        )
    correctable = isinstance(online, CorrectableRedisOnlineStore)
    return Materialization(
        Encoder(
            way,
            task.feature_view,
            task.project,
            check=correctable or not config.online_store.skip_dedup,
            replace_equal=correctable,
        ),
        store,
        client_of(online, config),
        make_tzaware(task.start_time) - timedelta(seconds=getattr(store, "late_seconds", 0)),
        make_tzaware(task.end_time),
        query_s=getattr(store, "statement_timeout_s", None),
        batch_rows=config.materialization_config.online_write_batch_size or options.batch_rows,
        timeout_s=options.redis_timeout_seconds,
        resume_s=resume_s,
        progress=progress,
        stop=stop or Stop(),
    )

"""Materialization of one feature view from Postgres to Redis: reading, encoding and writing in parallel.

A checkpoint of the run is stored in the Redis that it fills: a Redis that loses its rows loses the
checkpoint, too. In a cluster the two may be on different nodes, so there a killed run is repeated from its
start.
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
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from adbc_driver_manager import dbapi
from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from feast.repo_config import FeastConfigBaseModel
from feast.utils import make_tzaware
from pydantic import Field
from redis.cluster import RedisCluster

from feast_plugins.errors import ColumnTypesError, HistoryNotKnownError, InterruptedMaterializationError
from feast_plugins.materialize.plan import Encoder, ViewPlan, WrittenRange, latest, plan
from feast_plugins.materialize.resp import StoredTimes
from feast_plugins.materialize.shards import Channel, Shards, open_channel
from feast_plugins.offline.history import newest_issues
from feast_plugins.offline_store import TimescaleOfflineStore
from feast_plugins.online.writing import delete_outdated, expiry, noted_meanings
from feast_plugins.online_store import CorrectableRedisOnlineStore
from feast_plugins.postgres.session import connect, fetch_value, stream
from feast_plugins.windows.database import features_of
from feast_plugins.windows.declarations import HORIZON_TAG, READS_TAG, declaration_of
from feast_plugins.windows.features import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from feast import FeatureStore, RepoConfig
    from feast.infra.offline_stores.offline_store import OfflineStore
    from feast.infra.online_stores.online_store import OnlineStore
    from feast.infra.registry.base_registry import BaseRegistry


class Cancellation:
    """A flag that ends runs, and cancels their queries when it is set."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._connections: set[dbapi.Connection] = set()

    def set(self) -> None:
        """End every run before its next batch, and its query at once."""
        self._event.set()
        for connection in list(self._connections):
            _cancel(connection)

    def is_set(self) -> bool:
        """Whether runs have to end."""
        return self._event.is_set()

    @contextmanager
    def cancels(self, connection: dbapi.Connection) -> Iterator[None]:
        """Cancel the query of `connection` when the flag is set, or when the block fails."""
        self._connections.add(connection)
        try:
            yield
        except BaseException:
            _cancel(connection)
            raise
        finally:
            self._connections.discard(connection)


def _cancel(connection: dbapi.Connection) -> None:
    with suppress(dbapi.Error):  # no query was running
        connection.adbc_cancel()


@dataclass
class Checkpoint:
    """Progress of the materialization of one feature view, stored in Redis."""

    channel: Channel
    project: str
    view: str
    #: identity of the plan; checkpoints of other plans are ignored
    identity: str
    #: seconds after which the rows of this run may expire
    seconds: float
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    @property
    def _key(self) -> bytes:
        return checkpoint_key(self.project, self.view)

    def load(self, start: datetime) -> WrittenRange | None:
        """Range that an earlier run wrote, of a run from `start`; None if there is no valid checkpoint."""
        remaining_ms = int(self.channel.execute(b"PTTL", self._key) or 0)
        text = self.channel.execute(b"GET", self._key)
        if not isinstance(text, bytes) or remaining_ms <= 0:
            return None
        state = json.loads(text)
        if state["identity"] != self.identity or datetime.fromisoformat(state["start"]) > start:
            return None
        # the rows of the earlier run expire earlier
        self._until = min(self._until, time.monotonic() + remaining_ms / 1000)
        return WrittenRange(
            state["last"], datetime.fromisoformat(state["end"]), datetime.fromisoformat(state["read_at"])
        )

    def save(self, start: datetime, written: WrittenRange) -> None:
        """Store the range until its first rows may expire."""
        remaining_ms = int((self._until - time.monotonic()) * 1000)
        if remaining_ms <= 0:
            self.clear()
            return
        state = {
            "identity": self.identity,
            "start": start.isoformat(),
            "last": written.last,
            "end": written.end.isoformat(),
            "read_at": written.read_at.isoformat(),
        }
        self.channel.execute(b"SET", self._key, json.dumps(state).encode(), b"PX", b"%d" % remaining_ms)

    def clear(self) -> None:
        """Delete the checkpoint."""
        self.channel.execute(b"DEL", self._key)


def checkpoint_key(project: str, view: str) -> bytes:
    """Redis key of a view's checkpoint."""
    return b"feast_plugins:materialize:" + hashlib.sha256(json.dumps([project, view]).encode()).digest()


#: Returns the database's time, and lowers the planner's cost of rows of parallel workers to a tenth: Redis
#: waits for the sort before the first row, which several processes finish sooner.
_PREPARE = "SELECT now()::text, set_config('parallel_tuple_cost', '0.01', true)"
#: Encoded batches that may be queued for Redis.
_MAX_PENDING = 2
#: Longest time between the created timestamps of a transaction and its commit.
_COMMIT_DELAY = timedelta(minutes=10)
#: A checkpoint lives for this fraction of the TTL of its rows, so that it expires before them.
_TTL_FRACTION = 10


@dataclass(frozen=True)
class Materialization:
    """One run of the materialization of one feature view."""

    encoder: Encoder
    postgres: PostgreSQLConfig
    #: client of redis-py, of one server or of a cluster
    redis: Any
    #: first and last event time, both included
    start: datetime
    end: datetime
    #: time-out of the query; None: no limit
    query_s: float | None
    #: rows that are encoded and sent at once
    batch_rows: int
    #: time-out of each send to and receive from Redis
    timeout_s: float
    #: seconds within which a killed run can be resumed; 0: never
    resume_s: float
    #: called with the number of rows of each written batch
    progress: Callable[[int], Any]
    cancellation: Cancellation
    #: reads the rows that are issued at a time, of a view with a horizon; None: it has none
    issued: Callable[[dbapi.Connection, datetime], pa.RecordBatchReader] | None = None

    def run(self) -> None:
        """Write the newest row of each entity.

        Raises:
            ColumnTypesError: a column has a type that needs Feast's engine; nothing has been written.
            InterruptedMaterializationError: the run was cancelled.
            QueryTimeoutError: the query took longer than `query_s`.
            redis.RedisError: Redis is unreachable, does not answer in time, or refuses a command.
        """
        with ExitStack() as stack:
            checkpoint = self._checkpoint(stack)
            connection = stack.enter_context(connect(self.postgres, self.query_s))
            stack.enter_context(self.cancellation.cancels(connection))
            if self.issued is not None:
                self.write(iter(self.issued(connection, self.end)))
                return
            written = None if checkpoint is None else checkpoint.load(self.start)
            now = str(fetch_value(connection, _PREPARE))
            whole_range = WrittenRange([], self.end, datetime.fromisoformat(now).astimezone(UTC))
            query = latest(self.encoder.plan.source, self.start, self.end, written, _COMMIT_DELAY)
            with stream(connection, query) as batches:
                _require(self.encoder.plan.fits(batches.schema), ColumnTypesError(self.encoder.plan.name))
                if not self.encoder.plan.is_resumable(batches.schema):
                    checkpoint = None
                self._pump(iter(batches), checkpoint, whole_range)
            if checkpoint:
                checkpoint.clear()

    def fits(self, schema: pa.Schema) -> bool:
        """Whether `write` can encode the columns."""
        return self.encoder.plan.fits(schema)

    def write(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Write rows, at most one per entity, with the columns of the view's source.

        Raises:
            redis.RedisError: Redis is unreachable, does not answer in time, or refuses a command.
        """
        self._pump(batches, None, WrittenRange([], self.end, self.end))

    def _checkpoint(self, stack: ExitStack) -> Checkpoint | None:
        """Checkpoint of the run; None if it cannot be resumed."""
        plan = self.encoder.plan
        if not self.resume_s or not self.encoder.check or isinstance(self.redis, RedisCluster):
            return None
        seconds = min(self.resume_s, plan.ttl_seconds / _TTL_FRACTION) if plan.ttl_seconds else self.resume_s
        channel = stack.enter_context(open_channel(self.redis, self.timeout_s))
        return Checkpoint(channel, self.encoder.project, plan.name, plan.identity, seconds)

    def _pump(
        self, batches: Iterator[pa.RecordBatch], checkpoint: Checkpoint | None, whole_range: WrittenRange
    ) -> None:
        with (
            Shards(self.redis, self.timeout_s) as checks,
            Shards(self.redis, self.timeout_s) as shards,
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(1, "write") as writer,
        ):
            stored_times = StoredTimes(checks, self.encoder.plan.time_field)

            def write(batch: pa.RecordBatch, keys: pa.BinaryArray, commands: pa.BinaryArray) -> int:
                shards.write(keys, commands, self.encoder.replies)
                if checkpoint:
                    last = [batch.column(column)[-1].as_py() for column in self.encoder.plan.source.keys]
                    checkpoint.save(self.start, WrittenRange(last, whole_range.end, whole_range.read_at))
                return len(batch)

            pending: deque[Future[int]] = deque()
            try:
                for batch in self._slices(batches, reader):
                    pending.append(writer.submit(write, batch, *self.encoder.encode(batch, stored_times)))
                    if len(pending) > _MAX_PENDING:
                        self.progress(pending.popleft().result())
                while pending:
                    self.progress(pending.popleft().result())
            finally:
                for future in pending:
                    future.cancel()

    def _slices(
        self, batches: Iterator[pa.RecordBatch], reader: ThreadPoolExecutor
    ) -> Iterator[pa.RecordBatch]:
        """Slices of at most `batch_rows` rows; the next batch is read meanwhile."""
        ahead = reader.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            for first in range(0, len(batch), self.batch_rows):
                _require(
                    not self.cancellation.is_set(), InterruptedMaterializationError(self.encoder.plan.name)
                )
                yield batch.slice(first, self.batch_rows)


def _require(condition: bool, error: Exception) -> None:
    if not condition:
        raise error


#: Reads and writes that a columnar run replaces; stores that override them go through Feast's engine.
_SOURCE_QUERIES = (
    PostgreSQLOfflineStore.pull_latest_from_table_or_query,
    TimescaleOfflineStore.pull_latest_from_table_or_query,
)
_WRITES = (RedisOnlineStore.online_write_batch, CorrectableRedisOnlineStore.online_write_batch)


class WriteOptions(FeastConfigBaseModel):
    """Options of every engine that writes columns."""

    batch_rows: int = Field(10_000, ge=1)
    """Rows that are encoded and sent at once; Feast's `online_write_batch_size` takes precedence."""

    redis_timeout_seconds: float = Field(60, gt=0)
    """Seconds without an answer of Redis after which a materialization fails."""


def supported_plan(
    view: FeatureView,
    config: RepoConfig,
    offline: OfflineStore,
    online: OnlineStore,
    registry: BaseRegistry,
) -> ViewPlan | None:
    """Plan of a feature view whose result equals that of the stores; None if there is none."""
    is_stock = (
        type(online).online_write_batch in _WRITES
        and type(offline).pull_latest_from_table_or_query in _SOURCE_QUERIES
    )
    view_plan = plan(view, config) if is_stock else None
    if view_plan is None or not isinstance(online, CorrectableRedisOnlineStore):
        return view_plan
    # views with the same keys share a hash, which expires with the longest TTL of them
    views = registry.list_feature_views(config.project, allow_cache=True)
    ttls = [expiry(view_plan.ttl_seconds, other) or 0 for other in (view, *views)]
    return replace(view_plan, ttl_seconds=max(ttls) or None)


def client_of(online: OnlineStore, config: RepoConfig) -> Any:
    """The Redis client of the online store."""
    store: Any = online
    return store._get_client(config.online_store)  # noqa: SLF001  # Feast has no public way to it


def forget_earlier_meanings(online: OnlineStore, config: RepoConfig, views: Iterable[object]) -> None:
    """Delete online rows of declared views whose features or step were declared differently then.

    Also those of views whose source reads such a view, see `READS_TAG`. No materialization is under way that
    read them before: a view changes when nobody reads it.
    """
    if not isinstance(online, RedisOnlineStore):
        return
    stored = [view for view in views if isinstance(view, FeatureView)]
    declarations = {view.name: declaration_of(view) for view in stored}
    for view in stored:
        # a view with a horizon says itself what its features are
        declaration = declarations[view.name] or declarations.get((view.tags or {}).get(READS_TAG, ""))
        if declaration is not None and view.online:
            rows = STEPS[declaration.step]
            if declaration.horizon is not None:
                rows += f", {declaration.horizon}"
            meanings = declaration.as_json() | {"": rows}
            delete_outdated(client_of(online, config), config, view, meanings)


def _taken_out(client: Any, config: RepoConfig, view: FeatureView) -> tuple[str, ...]:
    """Features of a declared view of which Redis may have values, and that it has no longer.

    Whoever has not read the changed registry would take them for values of the rows that are written now.
    """
    declaration = declaration_of(view)
    if declaration is None or declaration.horizon is not None:  # TimescaleDB does not have all of a horizon's
        return ()
    gone = noted_meanings(client, config.project, view.name).keys() - declaration.as_json() - {"", "-"}
    # this registry may be an earlier one, that does not have a feature yet
    return tuple(sorted(gone - features_of(config, view.name))) if gone else ()


def writer_of(store: FeatureStore, view: FeatureView) -> Materialization | None:
    """Writer of a feature view's rows that are read elsewhere; None if only Feast's engine can write them."""
    config, provider = store.config, store._get_provider()  # noqa: SLF001  # Feast has no public way to it
    offline, online = provider.offline_store, provider.online_store
    view_plan = supported_plan(view, config, offline, online, store.registry)
    if view_plan is None or not isinstance(config.batch_engine, WriteOptions):
        return None
    now = datetime.now(UTC)
    task = MaterializationTask(store.project, view, now, now, tqdm_builder=None)
    return materialization(task, view_plan, config, online, progress=lambda _: None)


def materialization(
    task: MaterializationTask,
    view_plan: ViewPlan,
    config: RepoConfig,
    online: OnlineStore,
    *,
    progress: Callable[[int], Any],
    resume_s: float = 0,
    cancellation: Cancellation | None = None,
) -> Materialization:
    """The run of Feast's materialization task.

    Raises:
        HistoryNotKnownError: the offline store has `known_at`.
    """
    store, options = config.offline_store, config.batch_engine
    if getattr(store, "known_at", None) is not None:
        raise HistoryNotKnownError(
            "This store reads features as known at an earlier time, which must not be served. "
            "Materialize without `known_at`."
        )
    correctable, client = isinstance(online, CorrectableRedisOnlineStore), client_of(online, config)
    return Materialization(
        Encoder(
            view_plan,
            task.feature_view,
            task.project,
            check=correctable or not config.online_store.skip_dedup,
            replace_equal=correctable,
            taken_out=_taken_out(client, config, task.feature_view),
        ),
        store,
        client,
        make_tzaware(task.start_time) - timedelta(seconds=getattr(store, "late_seconds", 0)),
        make_tzaware(task.end_time),
        query_s=getattr(store, "statement_timeout_s", None),
        batch_rows=config.materialization_config.online_write_batch_size or options.batch_rows,
        timeout_s=options.redis_timeout_seconds,
        resume_s=resume_s,
        progress=progress,
        cancellation=cancellation or Cancellation(),
        issued=partial(_issued, task.feature_view) if HORIZON_TAG in (task.feature_view.tags or {}) else None,
    )


def _issued(view: FeatureView, connection: dbapi.Connection, at: datetime) -> pa.RecordBatchReader:
    return newest_issues(connection, view, at)

"""One feature view from Postgres to Redis: reading, encoding and writing at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from redis.cluster import RedisCluster

from feast_plugins.errors import ColumnTypesError, InterruptedMaterializationError
from feast_plugins.materialize.channel import open_channel
from feast_plugins.materialize.checkpoint import Checkpoint
from feast_plugins.materialize.latest import Done, latest
from feast_plugins.materialize.rows import Encoder
from feast_plugins.materialize.shards import Shards
from feast_plugins.materialize.stop import Stop
from feast_plugins.materialize.stored import Stored
from feast_plugins.postgres.session import connect, fetch_value, stream

if TYPE_CHECKING:
    import pyarrow as pa

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

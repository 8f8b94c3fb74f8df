"""One feature view from Postgres to Redis: reading, encoding and writing at the same time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from adbc_driver_manager import dbapi
from feast.feature_view import DUMMY_ENTITY_VAL
from feast.utils import _validate_vector_field_lengths
from redis.cluster import RedisCluster

from feast_plugins.errors import ColumnTypesError, InterruptedMaterializationError
from feast_plugins.materialize import keys, resp, times, values
from feast_plugins.materialize.checkpoint import Checkpoint
from feast_plugins.materialize.latest import Done, latest_rows
from feast_plugins.materialize.shards import Shards
from feast_plugins.postgres.reads import fetch_value, stream
from feast_plugins.postgres.session import connect

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from feast import FeatureView, RepoConfig

    from feast_plugins.materialize.plan import ViewPlan

#: Encoded batches that may wait for Redis.
_AHEAD = 2
#: How long after it stamped its rows a transaction may commit them.
_COMMIT_DELAY = timedelta(minutes=10)


@dataclass(frozen=True)
class Conditions:
    """How to write."""

    batch_rows: int
    #: how long a server may be silent
    timeout_s: float
    #: how long what a killed run has written may be relied on
    resume_s: float
    #: whether rows are compared with the times of those that are stored
    check: bool
    #: whether a row of the same time replaces the stored one
    replace_equal: bool


@dataclass
class Materialization:
    """Of one feature view; `run` it once."""

    plan: ViewPlan
    view: FeatureView
    config: RepoConfig
    client: Any
    start: datetime
    end: datetime
    conditions: Conditions
    #: called with the number of rows done
    progress: Callable[[int], Any]
    #: set to end the run before its next batch
    stop: threading.Event

    def run(self) -> None:
        """Write the newest row of each entity.

        Raises:
            ColumnTypesError: a column has a type that only Feast's engine can try; nothing has been written.
            InterruptedMaterializationError: it was told to stop.
        """
        checkpoint = self._checkpoint()
        with connect(self.config.offline_store) as connection:
            done = checkpoint and checkpoint.load(self.start)
            read_at = datetime.fromisoformat(
                str(fetch_value(connection, "SELECT clock_timestamp()::text"))
            ).astimezone(UTC)
            query = latest_rows(self.plan, self.start, self.end, done, _COMMIT_DELAY)
            try:
                with stream(connection, query) as batches:
                    if not self.plan.fits(batches.schema):
                        raise ColumnTypesError(self.plan.name)
                    if not self._is_resumable(batches.schema):
                        checkpoint = None
                    self._pump(iter(batches), checkpoint, read_at)
            except BaseException:
                with suppress(dbapi.Error):  # nothing was running any more
                    connection.adbc_cancel()
                raise
        if checkpoint:
            checkpoint.clear()

    def _checkpoint(self) -> Checkpoint | None:
        """Where to keep how far the run came, if the rows it leaves can be relied on."""
        limits = [self.conditions.resume_s, *filter(None, [self.plan.ttl_seconds and self.plan.ttl_seconds / 10])]
        if (
            not self.plan.created
            or self.plan.is_global
            or not self.conditions.check
            or isinstance(self.client, RedisCluster)
        ):
            return None
        return Checkpoint(self.client, self.config.project, self.plan.name, self.plan.identity, min(limits))

    def _is_resumable(self, schema: pa.Schema) -> bool:
        """Whether SQL can compare keys that were kept as JSON, and times of creation are times."""
        kinds = [schema.field(column).type for column in self.plan.key_columns]
        return (
            self.plan.created is not None
            and pa.types.is_timestamp(schema.field(self.plan.created).type)
            and all(pa.types.is_string(kind) or pa.types.is_integer(kind) for kind in kinds)
        )

    def _pump(self, batches: Iterator[pa.RecordBatch], checkpoint: Checkpoint | None, read_at: datetime) -> None:
        with (
            Shards(self.client, self.conditions.timeout_s) as checks,
            Shards(self.client, self.conditions.timeout_s) as writes,
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(1, "write") as writer,
        ):

            def write(batch: pa.RecordBatch, raw: pa.BinaryArray, commands: pa.BinaryArray) -> int:
                writes.write(raw, commands, 2 if self.plan.ttl_seconds else 1)
                if checkpoint:
                    last = [batch.column(column)[-1].as_py() for column in self.plan.key_columns]
                    checkpoint.save(self.start, Done(last, self.end, read_at))
                return batch.num_rows

            under_way: deque[Future[int]] = deque()
            try:
                for batch in self._parts(batches, reader):
                    under_way.append(writer.submit(write, batch, *self._encode(batch, checks)))
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
        """The rows in parts of equal size, read one batch ahead."""
        ahead = reader.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            for first in range(0, batch.num_rows, self.conditions.batch_rows):
                if self.stop.is_set():
                    raise InterruptedMaterializationError(self.plan.name)
                yield batch.slice(first, self.conditions.batch_rows)

    def _encode(self, batch: pa.RecordBatch, checks: Shards) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        """Redis keys and commands of the rows that are to be written."""
        plan = self.plan
        raw = resp.join(*keys.encode(self._key_columns(batch), self.config.project))
        bulk = resp.join(*resp.bulk((raw,)))
        event_times = times.micros(batch.column(plan.time))
        current = np.ones(len(raw), np.bool_)
        if self.conditions.check:
            stored = checks.ask(raw, resp.hget(bulk, plan.time_field))
            current = times.is_current(event_times, stored, equal=self.conditions.replace_equal)
        _validate_vector_field_lengths(self._named(batch), self.view)
        fields = [(plan.time_field, times.encode(event_times))]
        for name, kind in plan.features.items():
            column = batch.column(plan.column(name))
            fields.append((plan.feature_field(name), values.encode(column, kind)))
        commands = resp.hset(bulk, fields, plan.ttl_seconds)
        if current.all():
            return raw, commands
        mask = pa.array(current)
        return raw.filter(mask), commands.filter(mask)

    def _key_columns(self, batch: pa.RecordBatch) -> dict[str, tuple[pa.Array, Any]]:
        if self.plan.is_global:
            (name, kind), *_ = self.plan.keys.items()
            return {name: (pa.array([DUMMY_ENTITY_VAL] * batch.num_rows, pa.string()), kind)}
        return {name: (batch.column(self.plan.column(name)), kind) for name, kind in self.plan.keys.items()}

    def _named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The features under the view's names."""
        return pa.record_batch({name: batch.column(self.plan.column(name)) for name in self.plan.features})

"""Plan of a feature view's columnar materialization: which rows are read, and how they become commands."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from feast import FeatureView, StreamFeatureView, ValueType
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStoreConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStoreConfig, _versioned_fv_name
from feast.utils import _validate_vector_field_lengths
from psycopg import sql

from feast_plugins.materialize import encoding, resp
from feast_plugins.materialize.encoding import is_exact
from feast_plugins.postgres import sources

if TYPE_CHECKING:
    from datetime import timedelta

    from feast import RepoConfig

    from feast_plugins.materialize.resp import StoredTimes


@dataclass(frozen=True)
class WrittenRange:
    """Rows that an earlier run wrote: the newest up to `end`, of the entities up to `last`."""

    #: join keys, in the order of the source's key columns
    last: list[str | int]
    end: datetime
    #: time of the database before the rows were read
    read_at: datetime


def latest(
    source: sources.Source,
    start: datetime,
    end: datetime,
    written: WrittenRange | None,
    commit_delay: timedelta,
) -> sql.Composed:
    """Query of the newest row of each entity from `start` to `end`, in the order of the keys.

    Of entities that are `written`, only rows that the earlier run could not read count: those of later event
    times, and those created since. A transaction stamps its rows when it begins, and may commit them
    `commit_delay` later.
    """
    return sources.latest(_unwritten(source, written, commit_delay) if written else source, start, end)


def partition(source: sources.Source, number: int, count: int) -> sources.Source:
    """The rows of partition `number` (from 0) of `count` partitions of the entities, by hash of the keys."""
    rows = sql.SQL(
        "(SELECT * FROM {relation} AS rows"
        " WHERE abs(hashtextextended(ROW({keys})::text, 0) % {count}) = {number})"
    ).format(
        relation=sql.SQL(source.relation),
        keys=sql.SQL(", ").join(map(sql.Identifier, source.keys)),
        count=sql.Literal(count),
        number=sql.Literal(number),
    )
    return replace(source, relation=rows.as_string(None))


def _unwritten(source: sources.Source, written: WrittenRange, commit_delay: timedelta) -> sources.Source:
    comma = sql.SQL(", ")
    rows = sql.SQL(
        "(SELECT * FROM {relation} AS rows WHERE ({keys}) > ({last})"
        " OR {time} > {end} OR {created} > {read_at} OR {created} IS NULL)"
    ).format(
        relation=sql.SQL(source.relation),  # a table or query of the feature repository
        keys=comma.join(map(sql.Identifier, source.keys)),
        last=comma.join(map(sql.Literal, written.last)),
        time=sql.Identifier(source.time),
        end=sql.Literal(written.end),
        created=sql.Identifier(source.created or source.time),
        read_at=sql.Literal(written.read_at - commit_delay),
    )
    return replace(source, relation=rows.as_string(None))


_KEY_VERSION = 3


@dataclass(frozen=True)
class ViewPlan:
    """How a view is materialized. Names are those of the feature view, columns those of its source."""

    #: of the view in Redis, with its version if Feast stores versions separately
    name: str
    source: sources.Source
    #: by name, in the view's order
    keys: dict[str, ValueType]
    features: dict[str, ValueType]
    #: column by name, where they differ
    columns: dict[str, str]
    ttl_seconds: int | None

    def column(self, name: str) -> str:
        """Column of a join key or feature."""
        return self.columns.get(name, name)

    @property
    def time_field(self) -> bytes:
        """Field of the Redis hash with the event time."""
        return f"_ts:{self.name}".encode()

    def feature_field(self, name: str) -> bytes:
        """Field of the Redis hash with a feature's value."""
        return bytes(_mmh3(f"{self.name}:{name}"))

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides what the plan reads and writes."""
        parts = [self.name, repr(self.source), self.columns, self.ttl_seconds]
        types = [
            [(name, kind.name) for name, kind in fields.items()] for fields in (self.keys, self.features)
        ]
        return hashlib.sha256(json.dumps([*parts, *types]).encode()).hexdigest()

    def fits(self, schema: pa.Schema) -> bool:
        """Whether the types of the columns can be encoded."""
        if any(isinstance(field.type, pa.BaseExtensionType) for field in schema):
            return False
        return all(is_exact(kind, schema.field(self.column(name)).type) for name, kind in self.keys.items())

    def is_resumable(self, schema: pa.Schema) -> bool:
        """Whether rows have a created timestamp, and keys that JSON preserves and SQL compares."""
        kinds = [schema.field(column).type for column in self.source.keys]
        return (
            self.source.created is not None
            and bool(kinds)
            and pa.types.is_timestamp(schema.field(self.source.created).type)
            and all(pa.types.is_string(kind) or pa.types.is_integer(kind) for kind in kinds)
        )


def plan(view: FeatureView, config: RepoConfig) -> ViewPlan | None:
    """Plan of `view`; None if only Feast's own engine can materialize it."""
    source, online = view.batch_source, config.online_store
    if not (
        isinstance(source, PostgreSQLSource)
        and isinstance(config.offline_store, PostgreSQLOfflineStoreConfig)
        and isinstance(online, RedisOnlineStoreConfig)
        and config.entity_key_serialization_version == _KEY_VERSION
        and view.online
        and not view.offline
        and not _is_computed(view)
    ):
        return None
    columns = {name: column for column, name in (source.field_mapping or {}).items()}
    keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    features = {field.name: field.dtype.to_value_type() for field in view.features}
    created = source.created_timestamp_column
    return ViewPlan(
        name=_versioned_fv_name(view, config),
        source=sources.Source(
            relation=source.get_table_query_string(),
            keys=tuple(columns.get(name, name) for name in keys if name != DUMMY_ENTITY_ID),
            features=tuple(columns.get(name, name) for name in features),
            time=columns.get(source.timestamp_field, source.timestamp_field),
            created=columns.get(created, created) or None,
        ),
        keys=keys,
        features=features,
        columns=columns,
        ttl_seconds=online.key_ttl_seconds,
    )


def _is_computed(view: FeatureView) -> bool:
    """Whether rows are transformed, aggregated, filtered, validated or derived from other views."""
    return isinstance(view, StreamFeatureView) or any(
        getattr(view, name, None)
        for name in ("feature_transformation", "aggregations", "filter", "enable_validation", "source_views")
    )


@dataclass(frozen=True)
class Encoder:
    """Encodes batches of rows as Redis commands."""

    plan: ViewPlan
    view: FeatureView
    project: str
    #: whether rows that are older than the stored ones are skipped
    check: bool
    #: whether a row of the same time replaces the stored one
    replace_equal: bool
    #: features of which Redis may have values, and that the view has no longer
    taken_out: tuple[str, ...] = ()

    @property
    def replies(self) -> int:
        """Number of replies to the commands of one row."""
        return 1 + bool(self.plan.ttl_seconds) + bool(self.taken_out)

    def encode(self, batch: pa.RecordBatch, stored: StoredTimes) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        """Redis keys of the rows to be written, and the commands that write them, one element per row.

        Raises:
            ValueError: a join key is NULL, or a value is not of its feature's type.
        """
        raw = resp.join(*encoding.encode_keys(self._key_columns(batch), self.project))
        bulk = resp.join(*resp.bulk((raw,)))
        event_times = encoding.micros(batch.column(self.plan.source.time))
        current = np.ones(len(raw), np.bool_)
        if self.check:
            stored_times = stored.times(raw, bulk)
            current = encoding.is_current(event_times, stored_times, equal=self.replace_equal)
        features = {name: batch.column(self.plan.column(name)) for name in self.plan.features}
        if features:
            _validate_vector_field_lengths(pa.record_batch(features), self.view)
        fields = [(self.plan.time_field, encoding.encode_times(event_times))]
        for name, kind in self.plan.features.items():
            fields.append((self.plan.feature_field(name), encoding.encode_values(features[name], kind)))
        commands = resp.hset(bulk, fields, self.plan.ttl_seconds)
        if self.taken_out:
            # before the row has its new time
            deletions = resp.hdel(bulk, [self.plan.feature_field(name) for name in self.taken_out])
            commands = resp.join(deletions, commands)
        if current.all():
            return raw, commands
        mask = pa.array(current)
        return raw.filter(mask), commands.filter(mask)

    def _key_columns(self, batch: pa.RecordBatch) -> dict[str, tuple[pa.Array, ValueType]]:
        return {name: (batch.column(self.plan.column(name)), kind) for name, kind in self.plan.keys.items()}

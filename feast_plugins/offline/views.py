"""Reads of a feature view: the columns and row versions of its source that a request needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from psycopg import sql

from feast_plugins.offline.as_of import NO_TIME, microseconds
from feast_plugins.postgres.session import TIME, stream
from feast_plugins.windows.declarations import Declaration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adbc_driver_manager import dbapi
    from feast.infra.offline_stores.offline_utils import FeatureViewQueryContext
    from numpy.typing import NDArray

    from feast_plugins.offline.as_of import AsOf, KeySpace
    from feast_plugins.offline.entities import Entities

    Numbers = NDArray[np.int64]


#: Tag of a data source: the relation, or query, with every version of its rows. It has the source's columns
#: and `superseded_at`, the time at which a version was replaced or deleted.
VERSIONS_TAG = "versions"
SUPERSEDED = "superseded_at"


@dataclass(frozen=True)
class AsOfFilter:
    """The row versions that a request may read."""

    #: those that existed at this time; None: the present ones
    at: datetime | None = None
    #: those that existed at each entity row's own time
    by_row: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether the filter admits other versions than the present ones."""
        return self.by_row or self.at is not None

    def until(self, latest: datetime) -> datetime:
        """Latest creation time of versions that entity rows up to `latest` may read; of a limited filter."""
        limits = [time for time in (self.at, latest if self.by_row else None) if time is not None]
        return min(limits)


#: Rows to look up at once, per distinct key.
_ROWS_PER_KEY = 4


@dataclass(frozen=True)
class ViewRead:
    """The columns of a view's source that a history request reads."""

    view: str
    #: table or subquery
    source: str
    #: column of the source by join key of the entity rows
    keys: dict[str, str]
    features: tuple[str, ...]
    #: name of the feature by column of the source
    names: dict[str, str]
    #: column of event times
    time: str
    #: column of created timestamps
    created: str | None
    ttl: timedelta | None
    #: column of the times at which versions ended, null for a present one; None: the source has no versions
    superseded: str | None = None
    #: of a view with a horizon
    declaration: Declaration | None = None
    #: the declared view whose rows it reads; None: none, or unknown
    declared: str | None = None

    @classmethod
    def of(
        cls,
        context: FeatureViewQueryContext,
        tags: Mapping[str, str],
        as_of_filter: AsOfFilter,
        declaration: Declaration | None = None,
        declared: str | None = None,
    ) -> ViewRead:
        """The read of Feast's query context, of a source with `tags`.

        A source without the tag `versions` has its own rows as their only versions.
        """
        columns = [selection.split(" AS ", 1)[0] for selection in context.entity_selections]
        versions = tags.get(VERSIONS_TAG) if as_of_filter.is_limited else None
        return cls(
            view=context.name,
            source=context.table_subquery if versions is None else _relation(versions),
            keys=dict(zip(context.entities, columns, strict=True)),
            features=tuple(context.features),
            names={feature: context.field_mapping.get(feature, feature) for feature in context.features},
            time=context.timestamp_field,
            created=context.created_timestamp_column or None,
            ttl=timedelta(seconds=context.ttl) if context.ttl else None,
            superseded=None if versions is None else SUPERSEDED,
            declaration=declaration,
            declared=declared,
        )

    @property
    def relation(self) -> sql.Composed:
        """The source, named `source`."""
        return sql.SQL(self.source) + sql.SQL(" AS source")  # a table or query of the feature repository

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        times = filter(None, [self.time, self.created, self.superseded])
        return tuple(dict.fromkeys([*self.keys.values(), *self.features, *times]))

    def outputs(self, full_feature_names: bool) -> dict[str, str]:
        """Name in the result of each feature column of the source."""
        prefix = f"{self.view}__" if full_feature_names else ""
        return {feature: prefix + name for feature, name in self.names.items()}

    def select(
        self, conditions: Sequence[sql.Composable], columns: Sequence[str] | None = None
    ) -> sql.Composed:
        """Query of the rows that meet all conditions."""
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns or self.columns)),
            self.relation,
            sql.SQL(" AND ").join(conditions),
        )

    def between(self, earliest: datetime | None, latest: datetime) -> list[sql.Composed]:
        """Conditions on event times, both ends included, as constants so that the planner excludes chunks."""
        time = sql.Identifier(self.time)
        bounds = [sql.SQL("{} <= {}").format(time, sql.Literal(latest))]
        if earliest is not None:
            bounds.append(sql.SQL("{} >= {}").format(time, sql.Literal(earliest)))
        return bounds

    def asked(self, entities: Entities) -> list[sql.Composed]:
        """Conditions on keys and time of the rows that may be the newest of an entity row."""
        first, latest = entities.span
        return [
            *self.between(None if self.ttl is None else first - self.ttl, latest),
            *(
                sql.SQL("{} = ANY({})").format(sql.Identifier(column), sql.Literal(entities.values(name)))
                for name, column in self.keys.items()
            ),
        ]

    def candidates(self, entities: Entities, as_of_filter: AsOfFilter) -> sql.Composed:
        """Query of the rows that may be the newest of an entity row, by key, time, TTL and filter."""
        conditions, latest = self.asked(entities), entities.span[1]
        if as_of_filter.is_limited and self.created is not None:
            until = sql.Literal(as_of_filter.until(latest))
            conditions.append(sql.SQL("{} <= {}").format(sql.Identifier(self.created), until))
        if self.superseded is not None and not as_of_filter.by_row:
            ended = sql.Identifier(self.superseded)
            conditions.append(
                sql.SQL("({0} IS NULL OR {0} > {1})").format(ended, sql.Literal(as_of_filter.until(latest)))
            )
        return self.select(conditions)


@dataclass(frozen=True)
class ViewRows:
    """Rows of a view; times are microseconds since 1970 in UTC."""

    #: key numbers
    keys: Numbers
    event: Numbers
    #: creation times, `NO_TIME` for null; None: the view has none
    created: Numbers | None
    #: times at which versions ended, `NO_TIME` for a present one; None: the view has no versions
    ended: Numbers | None
    features: pa.Table

    def known_at(self, time: datetime) -> ViewRows:
        """The rows as known at `time`: a version that ended later had not ended then."""
        if self.ended is None:
            return self
        later = self.ended > microseconds(pa.array([time], TIME))
        return replace(self, ended=np.where(later, NO_TIME, self.ended))


def read_rows(
    connection: dbapi.Connection, read: ViewRead, query: sql.Composed, entities: Entities
) -> tuple[AsOf, ViewRows]:
    """Key numbers and times of the entity rows, and the rows of `query` whose keys occur in them."""
    with stream(connection, query) as batches:
        types = [batches.schema.field(column).type for column in read.keys.values()]
        space, as_of = entities.resolve_keys(tuple(read.keys), tuple(types))
        return as_of, collect(read, space, batches)


def collect(read: ViewRead, space: KeySpace, batches: pa.RecordBatchReader) -> ViewRows:
    """Rows with keys in `space`, filtered batch by batch."""
    times = {"event": read.time, "created": read.created, "ended": read.superseded}
    keys: list[Numbers] = []
    chunks: dict[str, list[Numbers]] = {name: [] for name, column in times.items() if column}
    features = []
    schema = pa.schema([batches.schema.field(name) for name in read.features])
    for block in _blocks(batches, _ROWS_PER_KEY * space.count):
        rows = block
        numbers = space.find([rows[column] for column in read.keys.values()], rows.num_rows)
        usable = (numbers >= 0) & (microseconds(rows[read.time]) != NO_TIME)
        if not usable.all():
            rows, numbers = rows.filter(pa.array(usable)), numbers[usable]
        keys.append(numbers)
        for name, parts in chunks.items():
            parts.append(microseconds(rows[times[name]]))
        features += rows.select(list(read.features)).to_batches()
    columns = {name: _joined(parts) for name, parts in chunks.items()}
    return ViewRows(
        keys=_joined(keys),
        event=columns["event"],
        created=columns.get("created"),
        ended=columns.get("ended"),
        features=pa.Table.from_batches(features, schema),
    )


def _blocks(batches: pa.RecordBatchReader, least: int) -> Iterator[pa.Table]:
    """Tables of at least `least` rows, except the last: every lookup costs a pass over all distinct keys."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        if count >= least:
            yield pa.Table.from_batches(pending)
            pending, count = [], 0
    if pending:
        yield pa.Table.from_batches(pending)


def _joined(parts: list[Numbers]) -> Numbers:
    return np.concatenate(parts) if parts else np.array([], np.int64)


def _relation(text: str) -> str:
    return f"({text})" if " " in text.strip() else text

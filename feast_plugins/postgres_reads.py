"""Reads of feature view rows from Postgres as Arrow tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.type_map import pg_type_code_to_arrow
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from feast.infra.offline_stores.offline_utils import FeatureViewQueryContext
    from psycopg import Connection

#: Tag of a data source: the relation, or query, with every version of its rows that ever was. It has the
#: source's columns and `superseded_at`, the time from which the version was no longer known to be true.
VERSIONS_TAG = "versions"
_SUPERSEDED = "superseded_at"

TIME = pa.timestamp("us", tz="UTC")
_TIMESTAMPTZ_OID = 1184
_TIMESTAMP_OIDS = frozenset({1114, _TIMESTAMPTZ_OID})  # the first is timestamp


@dataclass(frozen=True)
class Knowledge:
    """Which versions of the rows a request may see."""

    #: those created up to this time; None: the rows as they are now
    at: datetime | None = None
    #: those created up to each entity row's own time
    by_row: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether rows may be seen in another state than now."""
        return self.by_row or self.at is not None

    def until(self, latest: datetime) -> datetime:
        """Time up to which versions may count for entity rows up to `latest`."""
        known = [time for time in (self.at, latest if self.by_row else None) if time is not None]
        return min(known)


@dataclass(frozen=True)
class ViewRead:
    """Which columns of which view a history request needs."""

    view: str
    source: str
    #: column of the source by the name of the entity table's column it equals
    keys: dict[str, str]
    features: tuple[str, ...]
    names: dict[str, str]
    time: str
    created: str | None
    ttl: timedelta | None
    #: column with the time from which a row no longer counts; rows without it count on
    superseded: str | None = None

    @classmethod
    def of(cls, context: FeatureViewQueryContext, tags: Mapping[str, str], knowledge: Knowledge) -> ViewRead:
        """The read that Feast's query context describes, of a source with these tags.

        Without a tag for versions, the source's own rows are the only versions there are.
        """
        columns = [selection.split(" AS ", 1)[0] for selection in context.entity_selections]
        versions = tags.get(VERSIONS_TAG) if knowledge.is_limited else None
        return cls(
            view=context.name,
            source=context.table_subquery if versions is None else _relation(versions),
            keys=dict(zip(context.entities, columns, strict=True)),
            features=tuple(context.features),
            names={feature: context.field_mapping.get(feature, feature) for feature in context.features},
            time=context.timestamp_field,
            created=context.created_timestamp_column or None,
            ttl=timedelta(seconds=context.ttl) if context.ttl else None,
            superseded=None if versions is None else _SUPERSEDED,
        )

    def outputs(self, full_feature_names: bool) -> dict[str, str]:
        """Name in the result of each feature column of the source."""
        prefix = f"{self.view}__" if full_feature_names else ""
        return {feature: prefix + name for feature, name in self.names.items()}

    def execute(
        self,
        connection: Connection[Any],
        entities: pa.Table,
        span: tuple[pd.Timestamp, pd.Timestamp],
        knowledge: Knowledge,
    ) -> pa.Table:
        """Every row that may answer an entity row: its keys occur, its time is in reach, it may be known."""
        columns = dict.fromkeys(
            [
                *self.keys.values(),
                *self.features,
                self.time,
                *filter(None, [self.created, self.superseded]),
            ]
        )
        query = (
            sql.SQL("SELECT {} FROM ").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
            + sql.SQL(self.source)  # a table or query of the feature repository
            + sql.SQL(" AS source WHERE {}").format(
                sql.SQL(" AND ").join(self._conditions(entities, span, knowledge))
            )
        )
        rows = fetch(connection, query)
        if self.superseded is None or knowledge.at is None:
            return rows
        # that a version was superseded later was not known then
        ends = rows[self.superseded]
        later = pc.greater(ends, pa.scalar(knowledge.at, TIME))
        ends = pc.if_else(pc.fill_null(later, fill_value=True), pa.scalar(None, TIME), ends)
        return rows.set_column(rows.column_names.index(self.superseded), self.superseded, ends)

    def _conditions(
        self, entities: pa.Table, span: tuple[pd.Timestamp, pd.Timestamp], knowledge: Knowledge
    ) -> list[sql.Composed]:
        latest = span[1].to_pydatetime()
        conditions = [sql.SQL("{} <= {}").format(sql.Identifier(self.time), sql.Literal(latest))]
        if self.ttl is not None:
            earliest = span[0].to_pydatetime() - self.ttl
            conditions.append(sql.SQL("{} >= {}").format(sql.Identifier(self.time), sql.Literal(earliest)))
        if knowledge.is_limited and self.created is not None:
            until = sql.Literal(knowledge.until(latest))
            conditions.append(sql.SQL("{} <= {}").format(sql.Identifier(self.created), until))
        if self.superseded is not None and not knowledge.by_row:
            ended = sql.Identifier(self.superseded)
            conditions.append(
                sql.SQL("({0} IS NULL OR {0} > {1})").format(ended, sql.Literal(knowledge.until(latest)))
            )
        for name, column in self.keys.items():
            values = entities[name].unique().drop_null().to_pylist()
            conditions.append(sql.SQL("{} = ANY({})").format(sql.Identifier(column), sql.Literal(values)))
        return conditions


def _relation(text: str) -> str:
    return f"({text})" if " " in text.strip() else text


def fetch(connection: Connection[Any], query: str | sql.Composed) -> pa.Table:
    """Result of `query` with Feast's Arrow types; times are in UTC."""
    with connection.cursor(binary=True) as cursor:
        cursor.execute(query)
        columns = cursor.description or []
        rows = cursor.fetchall()
    is_utc = str(connection.info.timezone) == "UTC"
    arrays = [
        _array([row[position] for row in rows], column.type_code, is_utc=is_utc)
        for position, column in enumerate(columns)
    ]
    return pa.table(arrays, names=[column.name for column in columns])


def _array(values: list[Any], oid: int, *, is_utc: bool) -> pa.Array:
    if oid == _TIMESTAMPTZ_OID and not is_utc:
        # not left to pyarrow, which a variable that other libraries set makes ignore zones
        values = [value and value.astimezone(UTC) for value in values]
    return pa.array(values, type=TIME if oid in _TIMESTAMP_OIDS else pg_type_code_to_arrow(oid))

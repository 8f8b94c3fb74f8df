"""Reads of feature view rows from Postgres as Arrow tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast.type_map import pg_type_code_to_arrow
from psycopg import sql

if TYPE_CHECKING:
    import pandas as pd
    from feast.infra.offline_stores.offline_utils import FeatureViewQueryContext
    from psycopg import Connection

TIME = pa.timestamp("us", tz="UTC")
_TIMESTAMP_OIDS = frozenset({1114, 1184})  # timestamp, timestamptz


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

    @classmethod
    def of(cls, context: FeatureViewQueryContext) -> ViewRead:
        """The read that Feast's query context describes."""
        columns = [selection.split(" AS ", 1)[0] for selection in context.entity_selections]
        return cls(
            view=context.name,
            source=context.table_subquery,
            keys=dict(zip(context.entities, columns, strict=True)),
            features=tuple(context.features),
            names={feature: context.field_mapping.get(feature, feature) for feature in context.features},
            time=context.timestamp_field,
            created=context.created_timestamp_column or None,
            ttl=timedelta(seconds=context.ttl) if context.ttl else None,
        )

    def outputs(self, full_feature_names: bool) -> dict[str, str]:
        """Name in the result of each feature column of the source."""
        prefix = f"{self.view}__" if full_feature_names else ""
        return {feature: prefix + name for feature, name in self.names.items()}

    def execute(
        self, connection: Connection[Any], entities: pa.Table, span: tuple[pd.Timestamp, pd.Timestamp]
    ) -> pa.Table:
        """Every row that may answer an entity row: its keys occur, its time is in reach."""
        columns = dict.fromkeys(
            [*self.keys.values(), *self.features, self.time, *filter(None, [self.created])]
        )
        latest = span[1].to_pydatetime()
        conditions = [sql.SQL("{} <= {}").format(sql.Identifier(self.time), sql.Literal(latest))]
        if self.ttl is not None:
            earliest = span[0].to_pydatetime() - self.ttl
            conditions.append(sql.SQL("{} >= {}").format(sql.Identifier(self.time), sql.Literal(earliest)))
        for name, column in self.keys.items():
            values = entities[name].unique().drop_null().to_pylist()
            conditions.append(sql.SQL("{} = ANY({})").format(sql.Identifier(column), sql.Literal(values)))
        query = (
            sql.SQL("SELECT {} FROM ").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
            + sql.SQL(self.source)  # a table or query of the feature repository
            + sql.SQL(" AS source WHERE {}").format(sql.SQL(" AND ").join(conditions))
        )
        return fetch(connection, query)


def fetch(connection: Connection[Any], query: str | sql.Composed) -> pa.Table:
    """Result of `query` with Feast's Arrow types; times are in UTC."""
    with connection.cursor(binary=True) as cursor:
        cursor.execute(query)
        columns = cursor.description or []
        rows = cursor.fetchall()
    arrays = [
        pa.array(
            [row[position] for row in rows],
            type=TIME if column.type_code in _TIMESTAMP_OIDS else pg_type_code_to_arrow(column.type_code),
        )
        for position, column in enumerate(columns)
    ]
    return pa.table(arrays, names=[column.name for column in columns])

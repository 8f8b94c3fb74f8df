"""Queries of a data source's rows in a range of time: the newest of each entity, or all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from feast.data_source import DataSource


_COMMA = sql.SQL(", ")


@dataclass(frozen=True)
class Source:
    """A relation or query, and its columns that are read."""

    relation: str
    keys: tuple[str, ...]
    #: empty: every column of the source
    features: tuple[str, ...]
    time: str
    created: str | None

    @classmethod
    def of(
        cls,
        source: DataSource,
        keys: Sequence[str],
        features: Sequence[str],
        time: str,
        created: str | None,
    ) -> Self:
        """The arguments of Feast's `pull_*_from_table_or_query`, in Feast's order."""
        relation = source.get_table_query_string()
        return cls(relation, tuple(keys), tuple(features), time, created or None)

    @property
    def selection(self) -> sql.Composable:
        """The columns that are read, each once."""
        if not self.features:
            return sql.SQL("source.*")
        times = filter(None, [self.time, self.created])
        return _COMMA.join(map(_column, dict.fromkeys([*self.keys, *self.features, *times])))

    def rows(self, start: datetime | None, end: datetime | None) -> sql.Composed:
        """`FROM` and `WHERE` of the rows between two times, both included."""
        bounds = [
            sql.SQL(template).format(_column(self.time), sql.Literal(time))
            for template, time in (("{} >= {}", start), ("{} <= {}", end))
            if time is not None
        ]
        # a relation or query of the feature repository
        return sql.SQL(" FROM {} AS source WHERE {}").format(
            sql.SQL(self.relation), sql.SQL(" AND ").join(bounds) if bounds else sql.SQL("true")
        )


def everything(source: Source, start: datetime | None, end: datetime | None) -> sql.Composed:
    """Query of all rows between two times, both included."""
    return sql.SQL("SELECT {}").format(source.selection) + source.rows(start, end)


def latest(source: Source, start: datetime, end: datetime) -> sql.Composed:
    """Query of the newest row of each entity between two times, both included, in the order of the keys.

    Of rows with the same time the one created last is read.
    """
    keys = [_column(key) for key in source.keys]
    order = [*keys, sql.SQL("{} DESC").format(_column(source.time))]
    if source.created:
        order.append(sql.SQL("{} DESC NULLS LAST").format(_column(source.created)))
    rows = source.rows(start, end) + sql.SQL(" ORDER BY {}").format(_COMMA.join(order))
    if keys:
        select = sql.SQL("SELECT DISTINCT ON ({}) {}").format(_COMMA.join(keys), source.selection)
        return select + rows
    # a view without entities has one row, whose key is Feast's dummy entity
    dummy = sql.SQL(", {} AS {}").format(sql.Literal(DUMMY_ENTITY_VAL), sql.Identifier(DUMMY_ENTITY_ID))
    return sql.SQL("SELECT ") + source.selection + dummy + rows + sql.SQL(" LIMIT 1")


def _column(name: str) -> sql.Composed:
    return sql.SQL("source.{}").format(sql.Identifier(name))

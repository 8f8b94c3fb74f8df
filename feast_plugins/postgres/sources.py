"""Queries of a data source's rows: the newest of each entity, or all in a range of time.

The newest rows are read in two ways: `newest_row` probes an index for one entity after the other, which is
best for few entities or a long range of time; `newest_of_each` sorts what is in the range.
"""

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
    rows = source.rows(start, end)
    if source.keys:
        return newest_of_each(source.keys, source.selection, rows, source.time, source.created)
    # a view without entities has one row, whose key is Feast's dummy entity
    dummy = sql.SQL(", {} AS {}").format(sql.Literal(DUMMY_ENTITY_VAL), sql.Identifier(DUMMY_ENTITY_ID))
    return newest_row(source.selection + dummy, rows, source.time, source.created)


def newest_of_each(
    keys: Sequence[str], selection: sql.Composable, rows: sql.Composable, time: str, created: str | None
) -> sql.Composed:
    """Query of the newest of the rows of each entity, in the order of the keys.

    Args:
        keys: columns that tell entities apart.
        selection: what is selected of `source`.
        rows: `FROM … AS source WHERE …`.
        time: column of the event time.
        created: of rows with the same time the one counts that is last by this column; None: any.
    """
    distinct = _COMMA.join(map(_column, keys))
    order = sql.SQL("{}, {}").format(distinct, _newest_first(time, created))
    return sql.SQL("SELECT DISTINCT ON ({}) {}{} ORDER BY {}").format(distinct, selection, rows, order)


def newest_row(
    selection: sql.Composable, rows: sql.Composable, time: str, created: str | None
) -> sql.Composed:
    """Query of the newest row of a single entity; see `newest_of_each`."""
    return sql.SQL("SELECT {}{} ORDER BY {} LIMIT 1").format(selection, rows, _newest_first(time, created))


def _newest_first(time: str, created: str | None) -> sql.Composed:
    order = [sql.SQL("{} DESC").format(_column(time))]
    if created:
        order.append(sql.SQL("{} DESC NULLS LAST").format(_column(created)))
    return _COMMA.join(order)


def _column(name: str) -> sql.Composed:
    return sql.SQL("source.{}").format(sql.Identifier(name))

"""SQL for the newest row of each entity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from datetime import timedelta

    from feast_plugins.materialize.plan import ViewPlan


@dataclass(frozen=True)
class Done:
    """What an earlier run wrote: the newest rows up to `end` of the entities up to `last`."""

    last: list[str | int]
    end: datetime
    #: of the database, before the rows were read
    read_at: datetime


def latest_rows(
    plan: ViewPlan, start: datetime, end: datetime, done: Done | None, commit_delay: timedelta
) -> sql.Composed:
    """Newest row from `start` to `end` of each entity, in order of the keys, which makes a run resumable.

    Of several rows of the same time, the one created last counts. Of entities that are done, rows count that
    were not there to be read: those of later times, and those that were created since. A transaction stamps
    its rows when it begins, and may commit them `commit_delay` later.
    """
    keys = [sql.Identifier(column) for column in plan.key_columns]
    time = sql.Identifier(plan.time)
    columns = dict.fromkeys(
        [*plan.key_columns, *map(plan.column, plan.features), plan.time, *filter(None, [plan.created])]
    )
    order = [*keys, time + sql.SQL(" DESC")]
    if plan.created:
        order.append(sql.Identifier(plan.created) + sql.SQL(" DESC"))
    comma = sql.SQL(", ")
    one_each = sql.SQL("DISTINCT ON ({}) ").format(comma.join(keys)) if keys else sql.SQL("")
    conditions = [sql.SQL("{} BETWEEN {} AND {}").format(time, sql.Literal(start), sql.Literal(end))]
    if done and plan.created:
        conditions.append(
            sql.SQL("(({}) > ({}) OR {} > {} OR {created} > {} OR {created} IS NULL)").format(
                comma.join(keys),
                comma.join(map(sql.Literal, done.last)),
                time,
                sql.Literal(done.end),
                sql.Literal(done.read_at - commit_delay),
                created=sql.Identifier(plan.created),
            )
        )
    return (
        sql.SQL("SELECT {}{} FROM ").format(one_each, comma.join(map(sql.Identifier, columns)))
        + sql.SQL(plan.source)  # a table or query of the feature repository
        + sql.SQL(" AS source WHERE {} ORDER BY {}{}").format(
            sql.SQL(" AND ").join(conditions), comma.join(order), sql.SQL("" if keys else " LIMIT 1")
        )
    )
